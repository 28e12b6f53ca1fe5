"""Draws one synthetic pedestrian: limbs, garments and bag as polygons and ellipses.

A view from the side is drawn facing +x and mirrored for the other side. See pen.py for the coordinates.
"""

import math

from PIL import Image

from .body import PALETTE, SKIN, body_of, contrast, figure_height
from .head import draw_head
from .pen import Color, Pen, Point, Shape, cloth, mix, shade
from .people import Outfit, PersonTraits, Shot

_LONG_SLEEVES = ("shirt", "sweater", "hoodie", "jacket", "coat")
_LEG_WIDTHS = {"trousers": (1.08, 0.94, 0.84), "jeans": (1.1, 0.86, 0.64), "leggings": (1.02, 0.72, 0.46)}
_HEM = {"t-shirt": 0.53, "shirt": 0.54, "sweater": 0.52, "hoodie": 0.53, "jacket": 0.525, "coat": 0.71, "dress": 0.71}


def draw_figure(image: Image.Image, traits: PersonTraits, outfit: Outfit, shot: Shot, offset: float = 0.0) -> None:
    """Draws a person onto an RGB image in the pose of `shot`, shifted right by `offset` frame heights."""
    height = figure_height(traits, shot) * image.height
    middle = image.width / 2 + (shot.x + offset) * image.height
    pen = Pen(image, middle, shot.feet * image.height - height, height, mirror=shot.view == "left")
    pen.oval(0.0, 0.995, 0.15, 0.014, (58, 58, 60))  # the shadow on the ground
    _Figure(pen, traits, outfit, shot).draw()


class _Figure:
    """One person in one pose; the parts are drawn back to front."""

    def __init__(self, pen: Pen, traits: PersonTraits, outfit: Outfit, shot: Shot) -> None:
        self.pen, self.traits, self.outfit, self.shot = pen, traits, outfit, shot
        self.body = body_of(traits)
        self.side = shot.view in ("left", "right")
        self.back = shot.view == "back"
        self.skin = SKIN[traits.skin_tone]
        self.upper = PALETTE[outfit.upper_color]
        self.accent = PALETTE[outfit.accent]
        self.swing = math.sin(2 * math.pi * shot.phase)

    def draw(self) -> None:
        if self.side:
            self._arm_side(-self.swing, 0.78)
            self._leg_side(-self.swing, 0.8)
            if self.outfit.bag == "backpack":
                self._backpack_side()
            self._leg_side(self.swing, 1.0)
            self._torso()
            draw_head(self.pen, self.traits, self.body, self.outfit, self.shot.view)
            self._arm_side(self.swing, 1.0)
        else:
            for side in (-1, 1):
                self._leg_front(side, max(0.0, side * self.swing))
            self._torso()
            for side in (-1, 1):
                self._arm_front(side)
            if self.back and self.outfit.bag == "backpack":
                self._backpack_behind()
            draw_head(self.pen, self.traits, self.body, self.outfit, self.shot.view)
        self._hand_luggage()

    # legs

    def _leg_front(self, side: int, lift: float) -> None:
        hip = side * self.body.hip * 0.5
        knee, ankle = (hip + side * 0.006, 0.74 - 0.015 * lift), (hip + side * 0.004, 0.955 - 0.045 * lift)
        self._leg([(hip, 0.50), knee, ankle], 1.0 - 0.12 * lift, 0.0)

    def _leg_side(self, swing: float, light: float) -> None:
        angle = 0.36 * swing
        bend = 0.55 * max(0.0, -swing) + 0.06
        knee = (0.235 * math.sin(angle), 0.50 + 0.235 * math.cos(angle))
        ankle = (knee[0] + 0.225 * math.sin(angle - bend), knee[1] + 0.225 * math.cos(angle - bend))
        self._leg([(0.0, 0.50), knee, (ankle[0], min(0.96, ankle[1] + 0.01))], light, 0.03)

    def _leg(self, joints: list[Point], light: float, toe: float) -> None:
        pen, r, outfit = self.pen, self.body.leg, self.outfit
        radii = [r * 1.05, r * 0.72, r * 0.46]
        skin = shade(self.skin, light)
        self._shoe(joints[2], toe, light)
        hip, knee, ankle = joints
        if outfit.lower_type in (None, "skirt", "shorts"):
            pen.limb(joints, radii, skin)
        if outfit.lower_type is None or outfit.lower_type == "skirt":
            return
        color, accent = shade(PALETTE[outfit.lower_color], light), shade(contrast(outfit.lower_color), light)
        if outfit.lower_type == "shorts":
            shape: Shape = ("limb", [hip, _between(hip, knee, 0.86)], [r * 1.25, r * 1.18])
        else:
            shape = ("limb", joints, [r * share for share in _LEG_WIDTHS[outfit.lower_type]])
        cloth(pen, [shape], color, outfit.lower_pattern, accent)
        if outfit.lower_type == "jeans":  # worn thighs and a turned-up hem
            worn, hem = mix(color, (214, 220, 232), 0.14), mix(color, (214, 220, 232), 0.5)
            pen.limb([_between(hip, knee, 0.4), _between(hip, knee, 0.9)], [r * 0.42, r * 0.3], worn)
            pen.line([_between(knee, ankle, 0.93), (ankle[0] + 0.02, ankle[1] - 0.016)], 0.016, hem)

    def _shoe(self, ankle: Point, toe: float, light: float) -> None:
        pen, kind = self.pen, self.outfit.shoes_type
        x, y = ankle
        color = shade(PALETTE[self.outfit.shoes_color], light)
        length, middle = (0.046, x + toe) if self.side else (0.031, x)
        if kind == "sandals":
            pen.oval(middle, y + 0.024, length, 0.016, shade(self.skin, light))
            pen.line([(middle - length, y + 0.036), (middle + length, y + 0.036)], 0.012, color)
            pen.line([(middle - length * 0.6, y + 0.02), (middle + length * 0.6, y + 0.02)], 0.010, color)
            return
        pen.oval(middle, y + 0.022, length, 0.022, color)
        if kind == "boots":
            pen.limb([(x, y - 0.065), (x, y + 0.015)], [self.body.leg * 0.62, self.body.leg * 0.62], color)
        elif kind == "sneakers":
            pen.line([(middle - length, y + 0.038), (middle + length, y + 0.038)], 0.013, (244, 244, 244))

    # torso

    def _outline(self, hem: float, flare: float) -> list[Point]:
        body = self.body
        if not self.side:
            shoulder, hip = body.shoulder, max(body.hip, body.waist * 0.98)
            right = [(0.034, 0.150), (shoulder * 0.86, 0.172), (shoulder, 0.205), (shoulder * 0.86, 0.29)]
            right += [(body.waist * 1.02, 0.39), (hip + 0.004, 0.49), (hip + flare, hem)]
            return right + [(-x, y) for x, y in reversed(right)]
        lean = body.stoop * 0.7
        bust = 0.022 if self.traits.gender == "woman" else 0.004
        front = [(0.030 + lean, 0.155), (body.depth * 0.9 + bust + lean * 0.8, 0.255), (body.belly + 0.004, 0.36)]
        front += [(body.belly * 1.06, 0.43), (body.hip * 0.78, 0.50), (body.hip * 0.78 + flare, hem)]
        rear = [(-0.034 + lean, 0.155), (-body.depth * 0.95 - 0.3 * lean, 0.23), (-body.depth * 0.8, 0.37)]
        rear += [(-body.hip * 0.86, 0.47), (-body.hip * 0.82 - flare, hem)]
        return front + rear[::-1]

    def _torso(self) -> None:
        pen, outfit, body = self.pen, self.outfit, self.body
        kind = outfit.upper_type
        neck_x = body.stoop * 0.9 if self.side else 0.0
        half = body.hip * (0.8 if self.side else 1.0)
        color, edge = PALETTE[outfit.lower_color], contrast(outfit.lower_color)
        if outfit.lower_type == "skirt":
            outline = [(half * 0.95, 0.46), (half * 1.25, 0.69), (-half * 1.25, 0.69), (-half * 0.95, 0.46)]
            cloth(pen, [("polygon", outline, [])], color, outfit.lower_pattern, edge)
        elif outfit.lower_type is not None:
            pen.polygon([(half, 0.45), (half, 0.54), (-half, 0.54), (-half, 0.45)], color)
        pen.limb([(neck_x * 0.8, 0.19), (neck_x, 0.11 + 0.4 * body.stoop)], [0.027, 0.025], shade(self.skin, 0.9))
        flare = {"dress": 0.045, "coat": 0.014, "jacket": 0.008, "hoodie": 0.008}.get(kind, 0.0)
        cloth(pen, [("polygon", self._outline(_HEM[kind], flare), [])], self.upper, outfit.upper_pattern, self.accent)
        dark = contrast(outfit.upper_color)
        side = max(body.hip, body.waist) if not self.side else body.hip * 0.8
        if kind in ("sweater", "jacket"):
            pen.line([(-side, _HEM[kind] - 0.008), (side, _HEM[kind] - 0.008)], 0.018, mix(self.upper, dark, 0.35))
        if kind == "dress":
            pen.line([(-body.waist, 0.40), (body.waist, 0.40)], 0.014, mix(self.upper, dark, 0.4))
        if self.side:
            if kind in ("jacket", "coat"):
                pen.line(
                    [(body.depth * 0.85, 0.18), (body.belly * 0.98, 0.42), (body.hip * 0.76, _HEM[kind])], 0.010, dark
                )
            if kind == "hoodie":
                pen.oval(-0.045 + body.stoop * 0.6, 0.165, 0.034, 0.030, shade(self.upper, 0.82))
        elif self.back:
            if kind == "hoodie":
                pen.oval(0.0, 0.185, 0.062, 0.040, shade(self.upper, 0.8))
        else:
            self._front_details(kind, dark)

    def _front_details(self, kind: str, dark: Color) -> None:
        pen, outfit = self.pen, self.outfit
        if kind in ("jacket", "coat"):
            inner = PALETTE["white"] if outfit.upper_color not in ("white", "beige") else PALETTE["grey"]
            pen.polygon([(-0.032, 0.15), (0.032, 0.15), (0.0, 0.27 if kind == "coat" else 0.24)], inner)
            pen.line([(0.0, 0.24), (0.0, _HEM[kind])], 0.011, dark)
            if kind == "coat":
                pen.polygon([(-0.034, 0.15), (0.0, 0.27), (-0.058, 0.23)], shade(self.upper, 0.8))
                pen.polygon([(0.034, 0.15), (0.0, 0.27), (0.058, 0.23)], shade(self.upper, 0.8))
        elif kind == "shirt":
            pen.line([(0.0, 0.17), (0.0, 0.53)], 0.007, dark)
            pen.polygon([(-0.036, 0.15), (0.0, 0.185), (-0.03, 0.20)], mix(self.upper, dark, 0.3))
            pen.polygon([(0.036, 0.15), (0.0, 0.185), (0.03, 0.20)], mix(self.upper, dark, 0.3))
        elif kind == "hoodie":
            pen.limb([(-0.042, 0.165), (0.0, 0.185), (0.042, 0.165)], [0.018, 0.020, 0.018], shade(self.upper, 0.8))
            pen.polygon([(-0.045, 0.42), (0.045, 0.42), (0.06, 0.49), (-0.06, 0.49)], shade(self.upper, 0.82))
        else:
            pen.oval(0.0, 0.152, 0.034, 0.020, shade(self.skin, 0.93))
        if outfit.upper_pattern == "graphic":
            pen.oval(0.0, 0.295, 0.048, 0.048, self.accent)
            pen.line([(-0.03, 0.295), (0.03, 0.295)], 0.018, self.upper)
        if outfit.bag == "backpack":
            for x in (-self.body.shoulder * 0.62, self.body.shoulder * 0.62):
                pen.line([(x, 0.165), (x * 1.04, 0.36)], 0.022, shade(PALETTE[outfit.bag_color], 0.9))

    # arms

    def _arm_front(self, side: int) -> None:
        body = self.body
        swing = 0.5 * self.shot.arms * side
        shoulder = (side * (body.shoulder - body.arm * 1.0), 0.203)
        elbow = (side * (max(body.shoulder, body.waist) + 0.010 + 0.012 * abs(swing)), 0.345)
        widest = max(body.shoulder, body.hip, body.waist)
        hand = (side * (widest + 0.008 - 0.02 * swing), 0.485 - 0.05 * max(0.0, swing))
        self._arm([shoulder, elbow, hand], 0.94)

    def _arm_side(self, swing: float, light: float) -> None:
        angle = -0.55 * swing + 0.1 * self.shot.arms
        bend = 0.35 + 0.2 * self.shot.arms
        shoulder = (self.body.stoop * 0.5, 0.20)
        elbow = (shoulder[0] + 0.155 * math.sin(angle), shoulder[1] + 0.155 * math.cos(angle))
        hand = (elbow[0] + 0.15 * math.sin(angle + bend), elbow[1] + 0.15 * math.cos(angle + bend))
        self._arm([shoulder, elbow, hand], light * 0.94)

    def _arm(self, joints: list[Point], light: float) -> None:
        pen, r, kind = self.pen, self.body.arm, self.outfit.upper_type
        color, accent = shade(self.upper, light), shade(self.accent, light)
        thick = r * (1.22 if kind in ("coat", "jacket", "hoodie") else 1.15)
        pen.oval(*joints[2], r * 0.85, r * 1.0, shade(self.skin, light))
        shoulder, elbow, hand = joints
        pattern = self.outfit.upper_pattern
        edge = shade(color, 0.72)
        if kind in _LONG_SLEEVES:
            wrist = _between(elbow, hand, 0.9)
            pen.limb([shoulder, elbow, wrist], [thick + 0.006, thick + 0.005, thick * 0.8 + 0.004], edge)
            pen.oval(*shoulder, thick, thick, color)
            sleeve: Shape = ("limb", [shoulder, elbow, wrist], [thick, thick * 0.95, thick * 0.75])
            cloth(pen, [sleeve], color, pattern, accent)
            return
        pen.limb(joints, [r, r * 0.85, r * 0.65], shade(self.skin, light))
        end = _between(shoulder, elbow, 0.62)
        pen.oval(*shoulder, thick * 1.05, thick * 1.05, color)
        pen.limb([shoulder, end], [thick * 1.1 + 0.005, thick * 1.1 + 0.004], edge)
        cloth(pen, [("limb", [shoulder, end], [thick * 1.1, thick * 1.1])], color, pattern, accent)

    # luggage

    def _backpack_side(self) -> None:
        color = PALETTE[self.outfit.bag_color]
        x = -self.body.depth - 0.035
        self.pen.limb([(x, 0.235), (x, 0.385)], [0.046, 0.052], color)
        self.pen.oval(x, 0.235, 0.046, 0.046, color)
        self.pen.line([(x - 0.03, 0.32), (x + 0.02, 0.32)], 0.010, shade(color, 0.7))

    def _backpack_behind(self) -> None:
        color = PALETTE[self.outfit.bag_color]
        half = self.body.shoulder * 0.72
        edge = contrast(self.outfit.bag_color)
        self.pen.limb([(0.0, 0.25), (0.0, 0.36)], [half + 0.006, half + 0.01], edge)
        self.pen.limb([(0.0, 0.25), (0.0, 0.36)], [half, half + 0.004], color)
        self.pen.oval(0.0, 0.235, half, 0.05, color)
        self.pen.line([(-half * 0.8, 0.345), (half * 0.8, 0.345)], 0.010, edge)

    def _hand_luggage(self) -> None:
        """Draws a handbag or shoulder bag on the person's right, which is hidden in a view from the left."""
        outfit, body, pen = self.outfit, self.body, self.pen
        if outfit.bag not in ("handbag", "shoulder bag") or self.shot.view == "left":
            return
        color = PALETTE[outfit.bag_color]
        side = 1 if self.back else -1
        x = 0.03 if self.side else side * (max(body.shoulder, body.hip, body.waist) + 0.016)
        if outfit.bag == "handbag":
            y = 0.53
            pen.line([(x - 0.025, y + 0.03), (x, y - 0.035), (x + 0.025, y + 0.03)], 0.008, shade(color, 0.7))
            corners = [(x - 0.040, y + 0.02), (x + 0.040, y + 0.02), (x + 0.050, y + 0.10), (x - 0.050, y + 0.10)]
            pen.polygon(corners, color)
            return
        y = 0.44
        if self.side:
            pen.line([(0.0, 0.17), (x, y)], 0.014, shade(color, 0.85))
        else:
            pen.line([(-side * body.shoulder * 0.6, 0.168), (x, y + 0.01)], 0.016, shade(color, 0.85))
        pen.polygon([(x - 0.055, y), (x + 0.055, y), (x + 0.055, y + 0.095), (x - 0.055, y + 0.095)], color)
        pen.line([(x - 0.055, y + 0.04), (x + 0.055, y + 0.04)], 0.009, shade(color, 0.7))


def _between(first: Point, second: Point, share: float) -> Point:
    return first[0] + share * (second[0] - first[0]), first[1] + share * (second[1] - first[1])
