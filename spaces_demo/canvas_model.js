// What the visitor prompted: `props.value`, changed only here, never by the server.

const MODE = props.mode;
const MAX_NAME = 80;
let undone = [], done = [], lastId = 0, version = 0, asking = false;

const photo = () => props.photo || null;
const objects = () => (MODE === 'view' ? props.prompts : (props.value && props.value.objects)) || [];
const selectedId = () => (props.value ? props.value.selected : null);
const selected = () => objects().find((item) => item.id === selectedId()) || null;
const hasPrompts = (item) => item.points.length > 0 || item.box !== null;
const isKnown = (item) => hasPrompts(item) || Boolean(item.tracked); // on a video's other frames
const colorOf = (id) => {
  const [red, green, blue] = props.colors[id % props.colors.length];
  return `rgb(${red}, ${green}, ${blue})`;
};

function setValue(list, chosen) {
  version += 1;
  props.value = { photo: photo() ? photo().id : null, version, selected: chosen, objects: list };
}

// One edit that can be undone. `asks`: whether the masks may change, so that the server must be asked.
function edit(list, chosen, asks, message) {
  done.push({ list: objects(), chosen: selectedId() });
  undone = [];
  setValue(list, chosen);
  after(asks, message);
}

function after(asks, message) {
  renderObjects();
  redraw();
  if (message) say(message);
  if (asks) ask();
}

// Many edits at once are one question.
function ask() {
  if (asking) return;
  asking = true;
  setTimeout(() => {
    asking = false;
    trigger('prompt');
  });
}

function step(from, to, message) {
  const state = from.pop();
  if (!state) return say(`Nothing to ${message}.`);
  to.push({ list: objects(), chosen: selectedId() });
  setValue(state.list, state.chosen);
  after(true, message === 'undo' ? 'Undone.' : 'Done again.');
}

const undo = () => step(done, undone, 'undo');
const redo = () => step(undone, done, 'redo');

function startPhoto() {
  const now = photo(), before = props.value || {};
  version = Math.max(version, before.version || 0);
  // A canvas that is built again for the same photo keeps its prompts.
  const given = (now && (now.objects || (before.photo === now.id && before.objects))) || [];
  done = [];
  undone = [];
  lastId = Math.max(0, ...given.map((item) => item.id));
  const chosen = given.find((item) => item.id === before.selected) || given[0];
  setValue(given, chosen ? chosen.id : null);
}

function newObject(list) {
  lastId += 1;
  const item = { id: lastId, name: `Object ${lastId}`, points: [], labels: [], box: null, candidate: null };
  return [[...list, item], item];
}

function hasRoom() {
  const isRoom = objects().length < props.max_objects;
  warn(isRoom ? '' : `${props.max_objects} objects are the most: delete one of them first.`);
  return isRoom;
}

function addObject() {
  if (!photo()) return;
  const empty = objects().find((item) => !isKnown(item));
  if (empty) return select(empty.id);
  if (!hasRoom()) return;
  const [list, item] = newObject(objects());
  edit(list, item.id, false, `${item.name} is new: click on it.`);
}

// Change the selected object, which is made where there is none.
function change(make, message) {
  let list = objects(), item = selected();
  if (!item) {
    if (!hasRoom()) return;
    [list, item] = newObject(list);
  }
  const changed = { ...item, ...make(item) };
  edit(list.map((each) => (each.id === item.id ? changed : each)), item.id, true, `${message}, ${item.name}.`);
}

function addPoint([x, y], label) {
  const what = label ? 'Include' : 'Exclude';
  change((item) => ({ points: [...item.points, [x, y]], labels: [...item.labels, label] }), `${what} ${x}, ${y}`);
}

function setBox(from, to) {
  const x = [from[0], to[0]].sort((a, b) => a - b), y = [from[1], to[1]].sort((a, b) => a - b);
  const box = [Math.floor(x[0]), Math.floor(y[0]), Math.ceil(x[1]), Math.ceil(y[1])];
  if (box[0] === box[2] || box[1] === box[3]) return;
  change(() => ({ box }), `Box from ${box[0]}, ${box[1]} to ${box[2]}, ${box[3]}`);
}

function setCandidate(candidate) {
  if (selected()) change(() => ({ candidate }), candidate === null ? 'Automatic answer' : `Answer ${candidate + 1}`);
}

function clearObject() {
  const item = selected();
  if (item && hasPrompts(item)) change(() => ({ points: [], labels: [], box: null, candidate: null }), 'Cleared');
}

function removeObject(id) {
  const list = objects().filter((item) => item.id !== id);
  const chosen = id === selectedId() ? (list.length ? list[list.length - 1].id : null) : selectedId();
  edit(list, chosen, true, 'Object deleted.');
}

function clearAll() {
  if (objects().length) edit([], null, true, 'All objects deleted.');
}

function rename(id, text) {
  const name = text.replace(/\s+/g, ' ').trim().slice(0, MAX_NAME) || `Object ${id}`;
  const item = objects().find((each) => each.id === id);
  if (!item || item.name === name) return renderObjects();
  edit(objects().map((each) => (each.id === id ? { ...each, name } : each)), selectedId(), true, `Now called ${name}.`);
}

function select(id) {
  setValue(objects(), id);
  const item = selected();
  after(false, item ? `${item.name} is selected.` : '');
}
