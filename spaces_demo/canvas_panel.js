// The parts of the page: toolbar, stage and the list of objects.

const ICONS = {
  include: '<circle cx="10" cy="10" r="7.25"/><path d="M10 6.5v7M6.5 10h7"/>',
  exclude: '<circle cx="10" cy="10" r="7.25"/><path d="M6.5 10h7"/>',
  box: '<rect x="3.5" y="4.5" width="13" height="11" rx="1" stroke-dasharray="3 2"/>',
  pan: '<path d="M10 2.5v15M2.5 10h15M7.8 4.7 10 2.5l2.2 2.2M7.8 15.3l2.2 2.2 2.2-2.2M4.7 7.8 2.5 10l2.2 2.2M15.3 7.8l2.2 2.2-2.2 2.2"/>',
  undo: '<path d="M7 4 3.5 7.5 7 11M3.5 7.5H12a4.25 4.25 0 0 1 0 8.5H8"/>',
  redo: '<path d="M13 4l3.5 3.5L13 11M16.5 7.5H8A4.25 4.25 0 0 0 8 16h4"/>',
  clear: '<path d="M4 16.5h12M6 13.5 3.8 11.3a1.2 1.2 0 0 1 0-1.7l5.8-5.8a1.2 1.2 0 0 1 1.7 0l4.4 4.4a1.2 1.2 0 0 1 0 1.7L12 13.5Z"/>',
  in: '<circle cx="9" cy="9" r="5.5"/><path d="m13 13 4 4M9 6.8v4.4M6.8 9h4.4"/>',
  out: '<circle cx="9" cy="9" r="5.5"/><path d="m13 13 4 4M6.8 9h4.4"/>',
  fit: '<path d="M3.5 7V3.5H7M13 3.5h3.5V7M16.5 13v3.5H13M7 16.5H3.5V13"/>',
  add: '<path d="M10 4.5v11M4.5 10h11"/>',
  edit: '<path d="m4 16 .8-3.4 8.4-8.4 2.6 2.6-8.4 8.4Z"/>',
  remove: '<path d="m5.5 5.5 9 9M14.5 5.5l-9 9"/>',
  upload: '<path d="M10 13V3.5M6.5 7 10 3.5 13.5 7M3.5 12.5v3a1 1 0 0 0 1 1h11a1 1 0 0 0 1-1v-3"/>',
};
const svg = (name) =>
  `<svg viewBox="0 0 20 20" width="18" height="18" fill="none" stroke="currentColor" stroke-width="1.6"
    stroke-linecap="round" stroke-linejoin="round" aria-hidden="true">${ICONS[name]}</svg>`;
const HELP = {
  prompt: `Arrow keys move a crosshair; Shift makes larger steps, Alt single pixels. Enter includes, Shift and Enter
    excludes. B begins a box, Enter ends it. N begins a new object, Delete clears the selected one, Control and Z
    undoes. Plus, minus and zero zoom.`,
  pick: 'Arrow keys move a crosshair, Enter chooses the mask under it. Plus, minus and zero zoom.',
  view: 'Plus, minus and zero zoom.',
};
const EMPTY = { prompt: 'Drop a photo here', pick: 'Drop a photo here', view: 'The same prompts appear here' };

function make(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith('on')) made.addEventListener(name.slice(2), value);
    else if (name === 'html') made.innerHTML = value;
    else if (value !== false && value !== null) made.setAttribute(name, value === true ? '' : value);
  }
  made.append(...children);
  return made;
}

function button(icon, title, action, { text = '', ...more } = {}) {
  const label = text ? `${svg(icon)}<span>${text}</span>` : svg(icon);
  return make('button', { type: 'button', title, 'aria-label': title, onclick: action, html: label, ...more });
}

function toolButton(name, title, text) {
  const pressed = { 'data-tool': name, 'aria-pressed': String(name === tool), text };
  return button(name, title, () => chooseTool(name), pressed);
}

const id = (part) => `${element.id || props.label.replace(/\W+/g, '-')}-${part}`;
const zoomText = make('output', { class: 'zoom', 'aria-label': 'Zoom' }, '100%');
const candidates = make(
  'select',
  {
    'aria-label': 'Which of the model’s answers',
    title: 'The model has three answers for what is ambiguous, best first',
    onchange: (event) => setCandidate(event.target.value === '' ? null : Number(event.target.value)),
  },
  ...[['', 'Auto'], ['0', '1st'], ['1', '2nd'], ['2', '3rd']].map(([value, text]) => make('option', { value }, text)),
);
const group = (label, ...children) => make('div', { class: 'group', role: 'group', 'aria-label': label }, ...children);
const editGroups = () => [
  group(
    'Tool',
    toolButton('include', 'Include: click on the thing', 'Include'),
    toolButton('exclude', 'Exclude: click on what is not part of it (or shift-click)', 'Exclude'),
    toolButton('box', 'Box: drag around the thing', 'Box'),
    toolButton('pan', 'Move the photo (or hold space)', 'Move'),
  ),
  group(
    'Edit',
    button('undo', 'Undo (Ctrl+Z)', undo),
    button('redo', 'Redo (Ctrl+Shift+Z)', redo, { 'data-wide': true }),
    button('clear', 'Clear the selected object (Delete)', clearObject),
    ...(props.track ? [] : [make('label', { class: 'answer' }, make('span', {}, 'Answer'), candidates)]),
  ),
];
const viewGroup = () =>
  group(
    'View',
    button('out', 'Zoom out (−)', () => zoomTo(zoom / STEP)),
    zoomText,
    button('in', 'Zoom in (+)', () => zoomTo(zoom * STEP)),
    button('fit', 'Whole photo (0)', resetView, { 'data-wide': true }),
  );
const bar = make('div', { class: 'bar', role: 'toolbar', 'aria-label': `Tools: ${props.label}` });
const surface = make('canvas', {
  tabindex: '0', role: 'application', 'aria-label': props.label, 'aria-describedby': id('help'),
});
const hint = make('div', { class: 'hint', hidden: true });
const busy = make('div', { class: 'busy', hidden: true, role: 'progressbar', 'aria-label': 'Working' });
const empty = props.upload_id && MODE !== 'view'
  ? make('button', { type: 'button', class: 'empty', onclick: () => chooseFile() },
    make('span', { class: 'round', html: svg('upload') }),
    make('b', {}, props.track ? 'Drop a video here' : EMPTY[MODE]),
    make('span', {}, 'paste it, or click to choose a file'))
  : make('div', { class: 'empty' }, make('b', {}, EMPTY.view));
const notice = make('p', { class: 'notice', role: 'alert', hidden: true });
const stage = make('div', { class: 'stage' }, surface, empty, hint, notice, busy);
const list = make('ul', { class: 'chips', 'aria-label': 'Objects', hidden: true });
const live = make('p', { class: 'only-read', role: 'status', 'aria-live': 'polite' });
const help = make('p', { class: 'only-read', id: id('help') }, HELP[MODE]);
const root = make('div', { class: 'canvas', 'data-mode': MODE }, bar, stage, list, live, help);

const say = (text) => { live.textContent = text; };
function warn(text) {
  notice.textContent = text;
  notice.hidden = !text;
}
const pixels = (area) => `${Math.round(area).toLocaleString('en')} px`;
function describe(item) {
  const score = item.score === undefined || item.score === null ? '' : `, expected IoU ${item.score.toFixed(2)}`;
  return `Mask ${item.id}: ${pixels(item.area)}${score}`;
}

// The list is written anew with every change; what had the focus gets it back.
function renderObjects() {
  if (MODE !== 'prompt') return;
  if (list.querySelector('input')) return; // a name is being typed: `end` writes the list anew
  const focused = list.contains(document.activeElement) ? document.activeElement.dataset.key : null;
  const rows = objects().map(objectRow);
  const more = button('add', 'New object (N)', addObject, { text: 'New object', 'data-key': 'add' });
  const add = make('li', { class: 'more' }, more);
  if (objects().length > 1) {
    add.append(make('button', { type: 'button', onclick: clearAll, 'data-key': 'all' }, 'Delete all'));
  }
  list.replaceChildren(...rows, add);
  list.hidden = !photo();
  const item = selected();
  candidates.value = item && item.candidate !== null ? String(item.candidate) : '';
  candidates.disabled = !item || !hasPrompts(item);
  for (const control of bar.querySelectorAll('button')) control.disabled = !photo();
  if (focused) (list.querySelector(`[data-key="${focused}"]`) || surface).focus();
}

function objectRow(item) {
  const found = masks.find((mask) => mask.id === item.id);
  const detail = !isKnown(item) ? 'click on it' : found ? pixels(found.area) : '';
  const chosen = make(
    'button',
    { type: 'button', class: 'name', 'aria-pressed': String(item.id === selectedId()), 'data-key': `name-${item.id}`,
      onclick: () => select(item.id), ondblclick: () => askName(item) },
    make('i', { style: `background: ${colorOf(item.id)}` }), make('span', {}, item.name), make('small', {}, detail),
  );
  return make(
    'li', { 'data-id': item.id }, chosen,
    button('edit', `Rename ${item.name}`, () => askName(item), { 'data-key': `edit-${item.id}` }),
    button('remove', `Delete ${item.name}`, () => removeObject(item.id), { 'data-key': `remove-${item.id}` }),
  );
}

function askName(item) {
  const row = list.querySelector(`[data-id="${item.id}"]`);
  const label = `Name of ${item.name}`;
  const input = make('input', { type: 'text', maxlength: MAX_NAME, value: item.name, 'aria-label': label });
  let isOver = false;
  const end = (text, byKey = true) => {
    if (isOver) return;
    isOver = true;
    input.remove();
    rename(item.id, text);
    const edited = list.querySelector(`[data-key="edit-${item.id}"]`);
    if (byKey && edited) edited.focus();
  };
  input.addEventListener('keydown', (event) => {
    event.stopPropagation();
    if (event.key !== 'Enter' && event.key !== 'Escape') return;
    event.preventDefault(); // the button that gets the focus would be pressed
    end(event.key === 'Enter' ? input.value : item.name);
  });
  input.addEventListener('blur', () => end(input.value, false));
  row.replaceChildren(input);
  input.focus();
  input.select();
}
