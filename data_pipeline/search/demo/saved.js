// Saved searches: names and addresses in the localStorage of the browser, per index.
const form = () => element.querySelector('form');
const key = `bdam-searches-${form().dataset.index}`;
const say = (text) => (element.querySelector('output').textContent = text);

const read = () => {
    try {
        const found = JSON.parse(localStorage.getItem(key)) || [];
        return found.filter(({ name, address }) => typeof name === 'string' && String(address).startsWith('?'));
    } catch {
        return []; // blocked, or written by another program
    }
};

const button = (action, text, label) => {
    const made = document.createElement('button');
    Object.assign(made, { type: 'button', name: action, textContent: text });
    made.setAttribute('aria-label', label);
    return made;
};

const show = () => {
    const items = read().map(({ name, address }) => {
        const item = document.createElement('li');
        item.dataset.address = address;
        item.dataset.name = name;
        item.append(button('open', name, `open ${name}`), button('delete', '✕', `delete ${name}`));
        return item;
    });
    element.querySelector('ul').replaceChildren(...items);
};

const write = (searches) => {
    try {
        localStorage.setItem(key, JSON.stringify(searches));
        return true;
    } catch {
        say('The browser stores nothing for this page: allow it, or remove some saved searches.');
        return false;
    } finally {
        show();
    }
};

element.addEventListener('submit', (event) => {
    event.preventDefault();
    const input = form().querySelector('input');
    const name = input.value.trim();
    const address = location.search;
    if (!name) return;
    if (!address) return void say('Search first: there is nothing to save.');
    if (address.startsWith('?picture=')) return void say('An uploaded picture is not kept: save another search.');
    const searches = [...read().filter((search) => search.name !== name), { name, address }];
    searches.sort((one, other) => one.name.localeCompare(other.name));
    if (!write(searches)) return;
    say(`Saved: ${name}`);
    input.value = '';
});

element.addEventListener('click', (event) => {
    const action = event.target.closest('button')?.name;
    const { name, address } = event.target.closest('li')?.dataset || {};
    if (action === 'open') {
        history.pushState(null, '', address);
        dispatchEvent(new PopStateEvent('popstate'));
    }
    if (action === 'delete') {
        write(read().filter((search) => search.name !== name));
        say(`Deleted: ${name}`);
        (element.querySelector('li button') || form().querySelector('input')).focus();
    }
});

addEventListener('storage', (event) => event.key === key && show()); // another tab
show();
