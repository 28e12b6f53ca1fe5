// Keyboard, focus, history and the accessibility attributes that gradio does not set.
() => {
    const one = (selector) => document.querySelector(selector);
    const visible = (element) => element && element.getClientRects().length > 0;
    const cards = () => [...document.querySelectorAll('#hits .card')];
    const set = (element, name, value) => {
        if (element && element.getAttribute(name) !== value) element.setAttribute(name, value);
    };
    let opener = null; // the card of the opened image
    let left = null; // the card that had the focus, which new hits replace
    let isOpen = false;
    let turn = ''; // number of the search that is in the history

    const turnImage = (step) => {
        const all = cards();
        const next = all[all.indexOf(opener) + step];
        if (next) next.click();
        scroll();
    };

    const move = (key) => {
        const all = cards();
        const here = all.indexOf(document.activeElement);
        const top = (card) => card.getBoundingClientRect().top;
        const columns = all.filter((card) => top(card) === top(all[0])).length;
        const next = all[here + { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns, ArrowDown: columns }[key]];
        if (next) next.focus();
    };

    const scroll = () => opener?.scrollIntoView({ block: 'nearest' });

    // The panel is a dialog beside the page, not above it: it takes the focus and gives it back to the opened card.
    const focusPanel = () => {
        const panel = one('#detail');
        const shows = Boolean(visible(panel) && one('#close'));
        const opens = shows && !isOpen;
        const closes = !shows && isOpen;
        isOpen = shows;
        if (isOpen) {
            set(panel, 'role', 'dialog');
            set(panel, 'aria-label', (panel.querySelector('h2') || panel).textContent);
        }
        if (opens) {
            one('#close').focus();
            scroll();
        }
        if (closes) {
            const back = opener?.isConnected ? opener : cards()[0];
            if (document.activeElement === document.body || opener?.isConnected) back?.focus();
        }
        cards().forEach((card) => set(card, 'aria-expanded', String(isOpen && card === opener)));
    };

    const remember = () => {
        const found = one('#status [data-address]');
        if (!found || found.dataset.turn === turn) return;
        turn = found.dataset.turn;
        const { address, push } = found.dataset;
        if (address === location.search) return;
        history[push === '1' ? 'pushState' : 'replaceState'](null, '', address || location.pathname);
    };

    // A search in detail takes seconds: a line in the corner says that it runs.
    const showBusy = () => {
        const runs = visible(one('#status [data-testid=status-tracker]:not(.hide)'));
        const isCompared = one('#in-detail input')?.checked;
        set(one('#hits'), 'aria-busy', String(Boolean(runs)));
        const line = one('#busy');
        const text = !runs ? '' : isCompared ? 'Comparing the first images in detail …' : 'Searching …';
        if (line && line.textContent !== text) line.textContent = text;
    };

    const update = () => {
        set(one('#status'), 'role', 'status');
        set(one('#problem'), 'role', 'alert');
        document.querySelectorAll('#filters > button, #saved > button').forEach((toggle) => {
            set(toggle, 'aria-expanded', String(toggle.classList.contains('open')));
        });
        focusPanel();
        remember();
        showBusy();
        const marks = JSON.parse(one('#marks [data-marks]')?.dataset.marks || '{}');
        document.querySelectorAll('#hits .mark').forEach((mark) => {
            set(mark, 'aria-pressed', String(marks[mark.dataset.name] === mark.dataset.mark));
        });
        const kept = new Set([...document.querySelectorAll('#tray .drop')].map((drop) => drop.dataset.name));
        document.querySelectorAll('#hits .keep input').forEach((box) => (box.checked = kept.has(box.dataset.name)));
        const [first] = cards();
        if (first && left && !left.isConnected && document.activeElement === document.body) {
            first.focus({ preventScroll: true });
        }
    };

    document.documentElement.lang ||= 'en';
    new MutationObserver(update).observe(document.body, {
        subtree: true,
        childList: true,
        attributes: true,
        attributeFilter: ['class', 'style'],
    });
    update();

    document.addEventListener('focusin', (event) => (left = event.target.closest('#hits .card')));
    document.addEventListener('click', (event) => {
        const step = event.target.closest('#detail .turn')?.dataset.step;
        if (step) turnImage(Number(step));
        const card = event.target.closest('#hits .card');
        if (card) opener = card;
        focusPanel();
    });

    // Events of a video do not bubble. Without a width, only its sound can be decoded.
    const unplayable = ({ target }) => {
        if (!target.matches?.('#detail video') || (target.readyState && target.videoWidth)) return;
        target.hidden = true;
        target.nextElementSibling.hidden = false;
    };
    document.addEventListener('error', unplayable, true);
    document.addEventListener('loadedmetadata', unplayable, true);

    const play = () => {
        const video = one('#detail video');
        if (video) video.paused ? video.play() : video.pause();
    };

    const inCell = (selector) =>
        (document.activeElement.closest('.cell') || opener?.closest('.cell'))?.querySelector(selector).click();

    const keys = {
        Escape: () => visible(one('#detail')) && one('#close').click(),
        '/': () => one('#sentence textarea, #sentence input').focus(),
        k: () => inCell('input'),
        r: () => inCell('.mark[data-mark=right]'),
        w: () => inCell('.mark[data-mark=wrong]'),
        v: play,
        n: () => one('#next')?.click(),
        p: () => one('#previous')?.click(),
    };

    document.addEventListener('keydown', (event) => {
        if (event.ctrlKey || event.metaKey || event.altKey) return;
        const isTyping = event.target.closest('input:not([type=checkbox]), textarea, video, [role=listbox]');
        if (isTyping && event.key !== 'Escape') return;
        if (keys[event.key]) {
            keys[event.key]();
        } else if (visible(one('#detail')) && ['ArrowLeft', 'ArrowRight'].includes(event.key)) {
            turnImage(event.key === 'ArrowLeft' ? -1 : 1);
        } else if (event.key.startsWith('Arrow') && event.target.closest('#hits .card')) {
            move(event.key);
        } else {
            return;
        }
        event.preventDefault();
    });
}
