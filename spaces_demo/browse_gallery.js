// A page of tiles. The server has the images; which page, and which image is open, it is asked with events.

const WAIT_MS = 120; // pictures of a filter that is still being moved are not asked for
const root = element.querySelector('.gallery');
const part = (id) => document.getElementById(id);
const isViewing = () => (props.open ?? null) !== null;
let drawn = '', opened = null, scrolled = 0, focusWanted = null, waiting = null;

function make(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== null && value !== false) node.setAttribute(name, value === true ? '' : value);
  }
  node.append(...children);
  return node;
}

const counted = (count) => (count === 1 ? '1 mask' : `${count.toLocaleString('en')} masks`);

function tile(item) {
  const picture = make('img', { alt: '', 'data-src': item.url, draggable: 'false' });
  picture.addEventListener('load', () => picture.classList.add('there'));
  const caption = make('span', { class: 'caption' }, make('b', {}, item.key.split('/').at(-1)), make('small', {}));
  const badge = make('span', { class: 'badge' });
  const button = make('button', { type: 'button', class: 'tile', 'data-key': item.key, title: item.key }, picture, badge, caption);
  return make('li', { style: `--ratio:${item.ratio}` }, button);
}

// What a mark changes: the tile stays, and with it the focus.
function showMarks() {
  props.tiles.forEach((item, index) => {
    const button = root.querySelectorAll('.tile')[index];
    button.classList.toggle('bad', item.bad);
    button.querySelector('.badge').textContent = item.bad ? 'Bad' : '';
    const some = item.bad_masks ? `, ${item.bad_masks} bad` : '';
    button.querySelector('small').textContent = counted(item.masks) + some;
  });
}

function pager(label) {
  const last = props.num_pages - 1;
  const turn = (text, name, page, isOff) =>
    make('button', { type: 'button', 'data-page': page, 'aria-label': name, disabled: isOff }, text);
  const box = make('input', {
    type: 'number', min: 1, max: last + 1, value: props.page + 1, 'aria-label': 'Page', inputmode: 'numeric',
  });
  return make(
    'nav', { class: 'pager', 'aria-label': label },
    turn('←', 'Previous page', props.page - 1, props.page <= 0),
    make('span', {}, 'Page', box, `of ${(last + 1).toLocaleString('en')}`),
    turn('→', 'Next page', props.page + 1, props.page >= last),
  );
}

function draw() {
  const tiles = props.tiles || [];
  const now = JSON.stringify([props.page, props.num_pages, props.count, tiles.map((item) => item.url)]);
  if (now !== drawn) {
    drawn = now;
    const many = props.num_pages > 1;
    const bar = make('div', { class: 'gallery-bar' }, make('p', { role: 'status' }, props.count));
    if (many) bar.append(pager('Pages'));
    const list = tiles.length
      ? make('ul', { class: 'tiles', 'aria-label': 'Images' }, ...tiles.map(tile))
      : make('div', { class: 'card card-empty' }, make('p', {}, props.empty));
    root.replaceChildren(bar, list, ...(many && tiles.length ? [pager('Pages, again')] : []));
    clearTimeout(waiting);
    waiting = setTimeout(load, WAIT_MS);
  }
  showMarks();
  if (focusWanted !== null) focusTile(focusWanted === 'last' ? tiles.length - 1 : 0);
  focusWanted = null;
}

function load() {
  for (const picture of root.querySelectorAll('img[data-src]')) {
    picture.src = picture.dataset.src;
    picture.removeAttribute('data-src');
  }
}

// When nothing else is loading, what is likely to be asked for next.
let soon = [];
function fetchSoon() {
  soon.forEach((picture) => { picture.src = ''; });
  soon = [];
  const urls = props.soon || [];
  setTimeout(() => {
    if (urls !== props.soon) return;
    soon = urls.map((url) => Object.assign(new Image(), { fetchPriority: 'low', src: url }));
  }, 600);
}

const tiles = () => [...root.querySelectorAll('.tile')];

function focusTile(index) {
  const chosen = tiles()[index];
  if (!chosen) return;
  chosen.focus({ preventScroll: true });
  chosen.scrollIntoView({ block: 'nearest' });
}

// The answer to the page's load would undo what was asked for before it.
let held = [];
function ask(name, what) {
  if (props.has_arrived) trigger(name, what);
  else held.push([name, what]);
}
function askWhatWasHeld() {
  if (!props.has_arrived) return;
  const asked = held;
  held = [];
  asked.forEach(([name, what]) => trigger(name, what));
}

function turn(page, focus = null) {
  if (page < 0 || page >= props.num_pages || page === props.page) return;
  focusWanted = focus;
  ask('turn', { page });
  const top = root.getBoundingClientRect().top;
  if (top < 0) window.scrollBy(0, top - 12);
}

// The tile above or below, whose middle is nearest.
function neighbor(from, down) {
  const middle = (box) => box.left + box.width / 2;
  const here = from.getBoundingClientRect();
  const boxes = tiles().map((each, index) => ({ index, box: each.getBoundingClientRect() }));
  const rows = boxes.filter(({ box }) => (down ? box.top >= here.bottom : box.bottom <= here.top));
  const distance = ({ box }) => 1000 * Math.abs(box.top - here.top) + Math.abs(middle(box) - middle(here));
  return rows.sort((one, other) => distance(one) - distance(other))[0]?.index ?? null;
}

function walk(from, key) {
  const index = tiles().indexOf(from), last = tiles().length - 1;
  if (key === 'ArrowRight') return index < last ? focusTile(index + 1) : turn(props.page + 1, 'first');
  if (key === 'ArrowLeft') return index > 0 ? focusTile(index - 1) : turn(props.page - 1, 'last');
  const next = neighbor(from, key === 'ArrowDown');
  if (next !== null) focusTile(next);
}

function mark(button) {
  ask('mark', { key: button.dataset.key, bad: !button.classList.contains('bad') });
}

const click = (selector) => {
  const button = document.querySelector(selector);
  if (button && !button.disabled) button.click();
};
// In the open image: the page's own buttons, by keys.
const VIEWER_KEYS = {
  ArrowRight: '#image-next',
  ArrowLeft: '#image-previous',
  b: '#image-mark',
  m: '#image-table tr.lit [data-mark]',
  Escape: '#image-back',
};

function galleryKey(name) {
  const focused = document.activeElement?.closest?.('.tile');
  if (name === 'b') {
    const chosen = focused || root.querySelector('.tile:hover');
    if (chosen) mark(chosen);
    return Boolean(chosen);
  }
  if (!name.startsWith('Arrow')) return false;
  if (focused) walk(focused, name);
  else if (name === 'ArrowRight') turn(props.page + 1);
  else if (name === 'ArrowLeft') turn(props.page - 1);
  else return false;
  return true;
}

// Before the canvas, whose arrow keys move a crosshair: for those who came to it with the keyboard, not with a click.
let isPointing = false;
document.addEventListener('pointerdown', () => { isPointing = true; }, true);
document.addEventListener('keydown', (event) => {
  if (event.key === 'Tab') isPointing = false;
  if (event.ctrlKey || event.metaKey || event.altKey || event.shiftKey) return;
  if (event.target.closest('input, textarea, select, [role=listbox]')) return;
  const name = event.key.length === 1 ? event.key.toLowerCase() : event.key;
  if (isViewing()) {
    const isCanvas = event.target.matches('canvas') && !isPointing && !['b', 'm'].includes(name);
    if (!VIEWER_KEYS[name] || isCanvas) return;
    click(VIEWER_KEYS[name]);
  } else if (!galleryKey(name)) return;
  event.preventDefault();
  event.stopPropagation();
}, true);

root.addEventListener('click', (event) => {
  const button = event.target.closest('.tile');
  if (button) {
    scrolled = window.scrollY;
    ask('open', { key: button.dataset.key });
    return;
  }
  const page = event.target.closest('[data-page]')?.dataset.page;
  if (page !== undefined) turn(Number(page));
});
root.addEventListener('change', (event) => {
  if (!event.target.matches('.pager input')) return;
  const page = Math.min(Math.max(Math.round(Number(event.target.value)) || 1, 1), props.num_pages) - 1;
  event.target.value = page + 1;
  turn(page);
});

// Back from an image: where the visitor was, on the tile of the image that was open last.
function takeOpen() {
  const before = opened;
  opened = props.open ?? null;
  part('gallery-view')?.toggleAttribute('data-closed', isViewing());
  part('image-view')?.toggleAttribute('data-open', isViewing());
  if (opened !== null && before === null) {
    requestAnimationFrame(() => {
      window.scrollTo(0, 0);
      part('image-title')?.querySelector('h2')?.focus({ preventScroll: true });
    });
  }
  if (opened !== null || before === null) return;
  requestAnimationFrame(() => requestAnimationFrame(() => {
    window.scrollTo(0, scrolled);
    focusTile(tiles().findIndex((button) => button.dataset.key === before));
  }));
}

watch(['tiles', 'page', 'num_pages', 'count'], draw);
watch('soon', fetchSoon);
watch('open', takeOpen);
watch('has_arrived', askWhatWasHeld);
draw();
