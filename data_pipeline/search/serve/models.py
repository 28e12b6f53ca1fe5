"""The requests and responses of the service, which also form its OpenAPI document."""

from typing import Annotated, Any, Literal

from fastapi import UploadFile
from pydantic import BaseModel, Field

LONGEST_SENTENCE = 20_000  # characters; models read a few hundred
Sentence = Annotated[str, Field(max_length=LONGEST_SENTENCE)]


class Settings(BaseModel):
    """The settings of each search."""

    top_k: Annotated[int, Field(ge=1, le=1000, description="Number of hits.")] = 20
    offset: Annotated[int, Field(ge=0, le=10_000, description="Number of the best hits to leave out, for paging.")] = 0
    clothing_weight: Annotated[
        float | None,
        Field(ge=0, allow_inf_nan=False, description="Clothing weight β, by default the model's; 0 for other clothes."),
    ] = None
    where: Annotated[
        list[Annotated[str, Field(max_length=10_000)]],
        Field(max_length=20, description="SQL filters over the metadata columns, `camera == 3`; all must hold."),
    ] = []
    without: Annotated[Sentence | None, Field(description="Words that hits should not match, `a backpack`.")] = None
    min_likelihood: Annotated[
        float | None, Field(ge=0, le=1, description="Leaves out hits that are less likely; needs a calibrated model.")
    ] = None
    rerank: Annotated[
        int,
        Field(
            ge=0,
            le=1000,
            description="Number of the first hits that the model's matching head orders again by the sentence; slow "
            "for an index without image tokens.",
        ),
    ] = 0


class TextQuery(Settings):
    """A search by a sentence."""

    sentence: Annotated[Sentence, Field(description="Description of the person.")]


class ImageQuery(Settings):
    """A search by a picture, as a form."""

    image: Annotated[UploadFile, Field(description="Picture of one person, at most 10 MB.")]
    include_self: Annotated[bool, Field(description="Whether images with the content of the picture are hits.")] = False


class ComposedQuery(ImageQuery):
    """A search by the person of a picture in the clothes of a sentence, as a form."""

    sentence: Annotated[Sentence, Field(description="Description of the person, or of the clothes.")]
    identity_from: Annotated[
        Literal["image", "text"], Field(description="Source of the identity; the other one describes the clothes.")
    ] = "image"


class Item(BaseModel):
    """An image of the index. Row numbers and the address of the image are valid for one generation of the index."""

    row: int
    name: Annotated[str, Field(description="Path of the image in the index.")]
    image: Annotated[str, Field(description="Address of the image, a JPEG.")]
    metadata: dict[str, Any]


class Hit(Item):
    """An image that matches a query."""

    rank: int
    score: Annotated[float, Field(description="The sum of the other scores.")]
    identity_score: float
    clothing_score: float
    match_score: Annotated[float, Field(description="Score of the matching head; 0 without `rerank`.")]
    likelihood: Annotated[
        float | None, Field(description="Probability that this is the person; null for a model without calibration.")
    ]
    copies: Annotated[list[str], Field(description="Further images of the index with the same content.")]


class Answer(BaseModel):
    """The hits of a search, best first."""

    generation: Annotated[str, Field(description="The generation of the index that was searched.")]
    images: Annotated[int, Field(description="Number of images of the index.")]
    clothing_weight: float
    has_more: Annotated[bool, Field(description="Whether there are further hits, see `offset`.")]
    is_probably_absent: Annotated[bool, Field(description="Whether the person is probably not in the gallery.")]
    notes: Annotated[list[str], Field(description="What the model does not read in the query.")]
    hits: list[Hit]


class Refusal(BaseModel):
    """An error."""

    detail: Any
