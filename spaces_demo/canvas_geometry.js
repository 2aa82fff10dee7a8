// Where the photo lies on the canvas: CSS pixels of the stage on one side, pixels of the original on the other.

const MAX_SCALE = 16; // CSS pixels for one pixel of the original
const STEP = 1.5;
let zoom = 1, offsetX = 0, offsetY = 0, stageWidth = 1, stageHeight = 1;

const fitScale = () => Math.min(stageWidth / photo().width, stageHeight / photo().height);
const scale = () => fitScale() * zoom;
const maxZoom = () => Math.max(8, MAX_SCALE / fitScale());
const toStage = (x, y) => [offsetX + x * scale(), offsetY + y * scale()];
const toImage = (left, top) => [(left - offsetX) / scale(), (top - offsetY) / scale()];

// The pixel under a place of the stage; null outside the photo.
function pixelAt(left, top) {
  const [x, y] = toImage(left, top).map(Math.floor);
  return x >= 0 && y >= 0 && x < photo().width && y < photo().height ? [x, y] : null;
}

// The same without rounding, moved to the photo's edge from outside: the corner of a box.
function cornerAt(left, top) {
  const [x, y] = toImage(left, top);
  return [Math.min(Math.max(x, 0), photo().width), Math.min(Math.max(y, 0), photo().height)];
}

// A photo smaller than the stage lies in its middle; a larger one leaves no edge of the stage bare.
function keepInside() {
  const place = (offset, side, stage) =>
    (side <= stage ? (stage - side) / 2 : Math.min(0, Math.max(stage - side, offset)));
  offsetX = place(offsetX, photo().width * scale(), stageWidth);
  offsetY = place(offsetY, photo().height * scale(), stageHeight);
}

// A place of the photo comes to lie at a place of the stage.
function zoomAround([x, y], wanted, [left, top]) {
  zoom = Math.min(Math.max(wanted, 1), maxZoom());
  offsetX = left - x * scale();
  offsetY = top - y * scale();
  keepInside();
  viewChanged();
}

function zoomTo(wanted, left = stageWidth / 2, top = stageHeight / 2) {
  if (photo()) zoomAround(toImage(left, top), wanted, [left, top]);
}

function panBy(dx, dy) {
  offsetX += dx;
  offsetY += dy;
  keepInside();
  viewChanged();
}

function resetView() {
  zoom = 1;
  if (photo()) keepInside();
  viewChanged();
}

// Bring a pixel into view, for the crosshair of the keyboard.
function reveal(x, y) {
  const [left, top] = toStage(x, y), margin = 24;
  const move = (place, side) => (place < margin ? margin - place : place > side - margin ? side - margin - place : 0);
  const dx = move(left, stageWidth), dy = move(top, stageHeight);
  if (zoom > 1 && (dx || dy)) panBy(dx, dy);
}

function viewChanged() {
  zoomText.textContent = `${Math.round(zoom * 100)}%`;
  surface.style.touchAction = zoom > 1 || tool === 'box' || tool === 'pan' ? 'none' : 'pan-y';
  movedAt = performance.now();
  redraw();
}
