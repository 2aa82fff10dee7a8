// Uploads, and what the server changes.

const FILE_TYPES = /^$|^(image|video)\//; // browsers know no type of some photos
const fileInput = () => document.querySelector(`#${props.upload_id} input[type=file]`);
const isVisible = () => root.offsetParent !== null;

function chooseFile() {
  const input = fileInput();
  if (input) input.click();
}

// The upload of the page gets the file, as if it had been chosen there: no path ever comes from here.
function handOver(files) {
  const file = [...files].find((each) => FILE_TYPES.test(each.type)), input = fileInput();
  if (!file || !input) return false;
  const transfer = new DataTransfer();
  transfer.items.add(file);
  input.files = transfer.files;
  input.dispatchEvent(new Event('change', { bubbles: true }));
  warn('');
  say(`Opening ${file.name}.`);
  return true;
}

function takeDrops() {
  const mark = (isOver) => root.toggleAttribute('data-drop', isOver);
  stage.addEventListener('dragover', (event) => { event.preventDefault(); mark(true); });
  stage.addEventListener('dragleave', () => mark(false));
  // Also beside the canvas, where a browser would leave the page for the file.
  document.addEventListener('dragover', (event) => event.preventDefault());
  document.addEventListener('drop', (event) => {
    event.preventDefault();
    mark(false);
    if (!isVisible() || handOver(event.dataTransfer.files)) return;
    warn(props.track ? 'That is no video.' : 'That is no photo.');
  });
  document.addEventListener('paste', (event) => {
    if (!isVisible() || /^(INPUT|TEXTAREA)$/.test(event.target.tagName)) return;
    if (event.clipboardData && handOver(event.clipboardData.files)) event.preventDefault();
  });
}

let photoId = null, frameSize = null;

function takePhoto() {
  const now = photo();
  empty.hidden = Boolean(now);
  if ((now && now.id) === photoId) return redraw();
  photoId = now && now.id;
  const isNextFrame = props.track && now && frameSize === `${now.width} ${now.height}`;
  frameSize = now && `${now.width} ${now.height}`;
  pictureReady = false;
  hovered = crosshair = cornerKept = drawing = null;
  hint.hidden = true;
  drawnVersion = -1;
  if (MODE !== 'view') startPhoto();
  if (!isNextFrame) resetView();
  showMasks([], drawnVersion);
  delete root.dataset.photo;
  if (!now) return redraw();
  surface.setAttribute('aria-label', `${props.label}: ${now.alt || `${now.width} by ${now.height} pixels`}`);
  warn('');
  picture.onerror = () => warn('The picture is no longer here: files are kept for an hour. Open it again.');
  picture.onload = () => {
    pictureReady = true;
    root.dataset.photo = now.id; // on the screen now
    redraw();
  };
  picture.src = now.url;
}

let pulse = null;

function takeBusy() {
  busy.hidden = !props.busy;
  if (props.busy && !pulse) {
    const way = [{ transform: 'translateX(-100%)' }, { transform: 'translateX(300%)' }];
    pulse = busy.animate(way, { duration: 1200, iterations: Infinity });
  } else if (!props.busy && pulse) {
    pulse.cancel();
    pulse = null;
  }
}

bar.append(...(MODE === 'prompt' ? editGroups() : []), viewGroup());
element.replaceChildren(root);
if (props.upload_id && MODE !== 'view') takeDrops();
listen();
chooseTool(tool);
new ResizeObserver(fitSurface).observe(stage);
watch('photo', () => { takePhoto(); takeMasks(); });
watch('masks', takeMasks);
watch(['highlight', 'off', 'prompts'], redraw);
watch('busy', takeBusy);
takePhoto();
takeMasks();
takeBusy();
