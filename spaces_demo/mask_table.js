// Columns in order: key in a row, heading, and how a value is shown.
const number = (digits) => (value) => (value === null ? '–' : value.toFixed(digits));
const COLUMNS = [
  ['id', 'Mask', (value) => String(value)],
  ['area', 'Area, px', (value) => value.toLocaleString('en')],
  ['score', 'Expected IoU', number(3)],
  ['stability', 'Stability', number(3)],
  ['box', 'Box x1, y1, x2, y2', (value) => value.join(', ')],
];
let order = { key: 'id', rising: true };
let lit = null;
const root = element.querySelector('.mask-table');

function make(tag, text, attributes = {}) {
  const node = document.createElement(tag);
  if (text !== null) node.textContent = text;
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  return node;
}

function sorted(rows) {
  const of = (row) => (order.key === 'box' ? row.box[0] : row[order.key] ?? -1);
  return [...rows].sort((one, other) => (of(one) - of(other)) * (order.rising ? 1 : -1) || one.id - other.id);
}

function heading() {
  const row = make('tr', null);
  for (const [key, title] of COLUMNS) {
    const isOrder = key === order.key;
    const cell = make('th', null, { scope: 'col' });
    if (isOrder) cell.setAttribute('aria-sort', order.rising ? 'ascending' : 'descending');
    const button = make('button', title, { type: 'button', 'data-key': key });
    button.append(make('span', isOrder ? (order.rising ? '↑' : '↓') : '', { 'aria-hidden': 'true' }));
    cell.append(button);
    row.append(cell);
  }
  if (props.markable) row.append(make('th', 'Mark', { scope: 'col', class: 'mark' }));
  return row;
}

function body(row) {
  const line = make('tr', null, { 'data-id': row.id });
  COLUMNS.forEach(([key, , shown], index) => {
    const cell = make('td', null);
    if (index === 0) {
      const button = make('button', null, { type: 'button', 'aria-label': `Mask ${row.id}`, 'aria-pressed': 'false' });
      button.append(make('i', null, { style: `background:rgb(${row.color.join(',')})` }), make('span', shown(row[key])));
      cell.append(button);
    } else cell.textContent = shown(row[key]);
    line.append(cell);
  });
  if (props.markable) {
    const cell = make('td', null, { class: 'mark' });
    cell.append(make('button', 'Bad', { type: 'button', 'data-mark': row.id, 'aria-label': `Mask ${row.id} is bad` }));
    line.append(cell);
  }
  return line;
}

function draw() {
  const rows = props.rows || [];
  root.replaceChildren();
  if (!rows.length) return;
  const table = make('table', null);
  table.append(make('caption', `Masks: ${rows.length}`));
  const head = make('thead', null);
  head.append(heading());
  const main = make('tbody', null);
  main.append(...sorted(rows).map(body));
  table.append(head, main);
  root.append(table);
  showBad();
  light(lit, false);
}

function showBad() {
  const bad = new Set(props.bad || []);
  for (const button of root.querySelectorAll('[data-mark]')) {
    const isBad = bad.has(Number(button.dataset.mark));
    button.setAttribute('aria-pressed', String(isBad));
    button.closest('tr').classList.toggle('bad', isBad);
  }
}

function light(id, isTold) {
  const isNew = id !== lit;
  lit = id;
  for (const line of root.querySelectorAll('tbody tr')) {
    const isLit = Number(line.dataset.id) === id;
    line.classList.toggle('lit', isLit);
    line.querySelector('button').setAttribute('aria-pressed', String(isLit));
  }
  if (!isNew || !isTold) return;
  props.value = { id };
  trigger('row', { id });
}

const idAt = (event) => {
  const line = event.target.closest('tbody tr');
  return line ? Number(line.dataset.id) : null;
};
let pinned = null;

root.addEventListener('click', (event) => {
  const key = event.target.closest('button[data-key]')?.dataset.key;
  if (key) {
    order = { key, rising: key === order.key ? !order.rising : key === 'id' || key === 'box' };
    draw();
    root.querySelector(`button[data-key="${key}"]`).focus();
    return;
  }
  const id = idAt(event);
  if (id === null) return;
  const mark = event.target.closest('[data-mark]');
  if (mark) {
    trigger('mark', { id, bad: mark.getAttribute('aria-pressed') !== 'true' });
    return;
  }
  pinned = pinned === id ? null : id;
  light(pinned, true);
});
root.addEventListener('mouseover', (event) => {
  const id = idAt(event);
  if (id !== null) light(id, true);
});
root.addEventListener('mouseleave', () => light(pinned, true));
root.addEventListener('focusin', (event) => {
  const id = idAt(event);
  if (id !== null && event.target.matches(':focus-visible')) light(id, true);
});
root.addEventListener('keydown', (event) => {
  const step = { ArrowDown: 'nextElementSibling', ArrowUp: 'previousElementSibling' }[event.key];
  const line = step && event.target.closest('tbody tr')?.[step];
  if (!line) return;
  event.preventDefault();
  line.querySelector('button').focus();
});

watch('rows', () => {
  pinned = lit = null;
  draw();
});
watch('bad', showBad);
watch('picked', () => {
  pinned = props.picked;
  light(pinned, false);
  root.querySelector('tr.lit')?.scrollIntoView({ block: 'nearest' });
});
draw();
