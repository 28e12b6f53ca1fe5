// Keyboard: "/" focuses the sentence, arrows move between cards, Escape closes the detail view, left and right page it.
() => {
    const visible = (element) => element && element.getClientRects().length > 0;
    let opener = null;

    const cards = () => [...document.querySelectorAll('#hits .card')];
    const detail = () => document.querySelector('#detail');

    const turn = (step) => {
        const all = cards();
        const next = all[all.indexOf(opener) + step];
        if (next) next.click();
    };

    const move = (key) => {
        const all = cards();
        const here = all.indexOf(document.activeElement);
        const columns = all.filter((card) => card.offsetTop === all[0].offsetTop).length;
        const step = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns, ArrowDown: columns }[key];
        const next = all[here + step];
        if (next) next.focus();
    };

    document.addEventListener('click', (event) => {
        const card = event.target.closest('#hits .card');
        if (!card) return;
        cards().forEach((each) => each.classList.toggle('opened', each === card));
        opener = card;
    });

    document.addEventListener('keydown', (event) => {
        if (event.ctrlKey || event.metaKey || event.altKey) return;
        const typing = event.target.closest('input, textarea, [role=listbox]');
        const arrow = event.key.startsWith('Arrow');
        if (event.key === 'Escape' && visible(detail())) {
            document.querySelector('#close').click();
            if (opener && opener.isConnected) opener.focus();
        } else if (event.key === '/' && !typing) {
            document.querySelector('#sentence textarea, #sentence input').focus();
        } else if (arrow && !typing && visible(detail())) {
            if (event.key === 'ArrowLeft') turn(-1);
            else if (event.key === 'ArrowRight') turn(1);
            else return;
        } else if (arrow && event.target.closest('#hits .card')) {
            move(event.key);
        } else {
            return;
        }
        event.preventDefault();
    });
}
