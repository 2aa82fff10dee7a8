// Mouse, touch and keyboard.

const DRAG = 5; // CSS pixels: less is a click
let tool = MODE === 'prompt' ? 'include' : 'pan';
let crosshair = null, cornerKept = null, press = null, pinch = null, spaceHeld = false;
const pointers = new Map();

const place = (event) => {
  const box = surface.getBoundingClientRect();
  return [event.clientX - box.left, event.clientY - box.top];
};

function chooseTool(wanted) {
  tool = wanted;
  for (const button of bar.querySelectorAll('[data-tool]')) {
    button.setAttribute('aria-pressed', String(button.dataset.tool === tool));
  }
  root.dataset.tool = tool;
  viewChanged();
}

function startPress(event) {
  if (!photo() || (event.pointerType === 'mouse' && event.button > 2)) return;
  surface.focus({ preventScroll: true });
  crosshair = cornerKept = null;
  pointers.set(event.pointerId, place(event));
  surface.setPointerCapture(event.pointerId);
  if (pointers.size === 2) {
    [press, drawing] = [null, null];
    const { distance, center } = spread();
    pinch = { distance, zoom, anchor: toImage(...center) };
    return;
  }
  const pans = tool === 'pan' || spaceHeld || event.button === 1 || MODE !== 'prompt';
  // One finger moves the photo, and draws only with Box.
  const scrolls = event.pointerType === 'touch' && tool !== 'box';
  const clicks = !(spaceHeld || event.button === 1);
  press = { at: place(event), last: place(event), moved: false, pans: pans || scrolls, clicks };
  if (event.button === 1) event.preventDefault();
}

function movePointer(event) {
  if (!photo()) return;
  const at = place(event);
  if (MODE === 'pick' && !pointers.size) return hoverAt(at);
  if (!pointers.has(event.pointerId)) return;
  pointers.set(event.pointerId, at);
  if (pinch) return movePinch();
  if (!press) return;
  if (!press.moved && Math.hypot(at[0] - press.at[0], at[1] - press.at[1]) < DRAG) return;
  press.moved = true;
  if (press.pans) panBy(at[0] - press.last[0], at[1] - press.last[1]);
  else drawing = { from: cornerAt(...press.at), to: cornerAt(...at) };
  press.last = at;
  redraw();
}

function endPress(event) {
  pointers.delete(event.pointerId);
  if (pinch) {
    if (!pointers.size) pinch = null;
    return;
  }
  const ended = press;
  press = null;
  if (!ended || !photo()) return;
  if (drawing) {
    const { from, to } = drawing;
    drawing = null;
    setBox(from, to);
    redraw();
  } else if (!ended.moved && ended.clicks && tool !== 'box') {
    clickAt(place(event), event.shiftKey || event.button === 2);
  }
}

function cancelPress(event) {
  pointers.delete(event.pointerId);
  [press, pinch, drawing] = [null, null, null];
  redraw();
}

function clickAt(at, excludes) {
  const pixel = pixelAt(...at);
  if (!pixel) return;
  if (MODE === 'pick') return pick(maskAt(pixel));
  if (MODE === 'view' || (tool === 'pan' && !excludes)) return;
  addPoint(pixel, excludes || tool === 'exclude' ? 0 : 1);
}

// Choosing it again, or nothing, lets a mask go.
function pick(item) {
  const isNew = item && item.id !== props.highlight;
  say(isNew ? describe(item) : 'No mask is chosen.');
  trigger('pick', { id: isNew ? item.id : null });
}

function hoverAt(at) {
  const pixel = pixelAt(...at), item = pixel && maskAt(pixel);
  const id = item ? item.id : null;
  surface.style.cursor = item ? 'pointer' : '';
  hint.hidden = !item;
  if (item) {
    hint.textContent = describe(item);
    hint.style.left = `${Math.min(at[0] + 14, stageWidth - hint.offsetWidth - 8)}px`;
    hint.style.top = `${Math.min(at[1] + 16, stageHeight - hint.offsetHeight - 8)}px`;
  }
  if (id === hovered) return;
  hovered = id;
  root.dataset.hovered = id === null ? '' : id;
  redraw();
}

function spread() {
  const [a, b] = [...pointers.values()];
  return { distance: Math.hypot(a[0] - b[0], a[1] - b[1]), center: [(a[0] + b[0]) / 2, (a[1] + b[1]) / 2] };
}

function movePinch() {
  if (pointers.size < 2) return;
  const { distance, center } = spread();
  zoomAround(pinch.anchor, (pinch.zoom * distance) / pinch.distance, center);
}

function wheel(event) {
  const zooms = event.ctrlKey || event.metaKey || document.activeElement === surface;
  // At the ends the page scrolls on.
  if (!photo() || !zooms || (zoom === 1 && event.deltaY > 0 && !event.ctrlKey)) return;
  event.preventDefault();
  zoomTo(zoom * Math.exp(-Math.max(-80, Math.min(80, event.deltaY)) / 250), ...place(event));
}

function moveCrosshair(dx, dy, event) {
  if (!crosshair) {
    const [x, y] = toImage(stageWidth / 2, stageHeight / 2).map(Math.floor);
    crosshair = [x, y];
  }
  const pace = event.altKey ? 1 : Math.max(1, Math.round((event.shiftKey ? 60 : 12) / scale()));
  crosshair = [
    Math.min(Math.max(crosshair[0] + dx * pace, 0), photo().width - 1),
    Math.min(Math.max(crosshair[1] + dy * pace, 0), photo().height - 1),
  ];
  reveal(...crosshair);
  if (MODE === 'pick') hoverAt(toStage(crosshair[0] + 0.5, crosshair[1] + 0.5));
  say(`${crosshair[0]}, ${crosshair[1]}`);
  redraw();
}

function enter(event) {
  if (!crosshair) return moveCrosshair(0, 0, event);
  if (cornerKept) {
    const kept = cornerKept;
    cornerKept = null;
    return setBox(kept, [crosshair[0] + 1, crosshair[1] + 1]);
  }
  if (tool === 'box' && MODE === 'prompt') return keepCorner(event);
  clickAt(toStage(crosshair[0] + 0.5, crosshair[1] + 0.5), event.shiftKey);
}

function keepCorner(event) {
  if (!crosshair) moveCrosshair(0, 0, event);
  cornerKept = [...crosshair];
  say('Box begun: move to the opposite corner and press Enter.');
  redraw();
}

const VIEW_KEYS = {
  ArrowLeft: (event) => moveCrosshair(-1, 0, event),
  ArrowRight: (event) => moveCrosshair(1, 0, event),
  ArrowUp: (event) => moveCrosshair(0, -1, event),
  ArrowDown: (event) => moveCrosshair(0, 1, event),
  Enter: enter,
  '+': () => zoomTo(zoom * STEP, ...crosshairPlace()),
  '=': () => zoomTo(zoom * STEP, ...crosshairPlace()),
  '-': () => zoomTo(zoom / STEP, ...crosshairPlace()),
  0: resetView,
  Escape: () => {
    crosshair = cornerKept = null;
    hoverAt([-1, -1]);
    if (MODE === 'pick' && props.highlight !== null) pick(null);
    redraw();
  },
};
const EDIT_KEYS = { b: keepCorner, n: addObject, Delete: clearObject, Backspace: clearObject };

const crosshairPlace = () =>
  (crosshair ? toStage(crosshair[0] + 0.5, crosshair[1] + 0.5) : [stageWidth / 2, stageHeight / 2]);

function key(event) {
  if (!photo()) return;
  const name = keyName(event);
  let action = null;
  if (event.ctrlKey || event.metaKey) return;
  if (name === ' ') action = () => { spaceHeld = true; };
  else action = VIEW_KEYS[name] || (MODE === 'prompt' ? EDIT_KEYS[name] : null);
  if (!action) return;
  event.preventDefault();
  action(event);
}

const keyName = (event) => (event.key.length === 1 ? event.key.toLowerCase() : event.key);

// Wherever the focus is in the component, but in a text.
function command(event) {
  if (!photo() || MODE !== 'prompt' || !(event.ctrlKey || event.metaKey) || event.target.tagName === 'INPUT') return;
  const name = keyName(event);
  const action = name === 'y' || (name === 'z' && event.shiftKey) ? redo : name === 'z' ? undo : null;
  if (!action) return;
  event.preventDefault();
  action();
}

function listen() {
  root.addEventListener('keydown', command);
  const events = {
    pointerdown: startPress, pointermove: movePointer, pointerup: endPress, pointercancel: cancelPress, keydown: key,
    keyup: (event) => { if (event.key === ' ') spaceHeld = false; },
    contextmenu: (event) => event.preventDefault(),
    pointerleave: () => MODE === 'pick' && photo() && hoverAt([-1, -1]),
    blur: () => { spaceHeld = false; },
  };
  for (const [name, handle] of Object.entries(events)) surface.addEventListener(name, handle);
  surface.addEventListener('wheel', wheel, { passive: false });
}
