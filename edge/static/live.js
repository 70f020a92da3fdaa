/**
 * What the service knows now, kept up by one WebSocket that reconnects by itself.
 *
 * Frames are {"type", "timestamp", "data"}: `snapshot` (everything), `meter_reading`,
 * `meter_status`, `load_status` (at least every 5 s), `alert`. Ages are counted by
 * performance.now() from what the service said, so a wrong clock of this computer does no harm.
 */

import {loadSession} from './api.js';
import {parseTime} from './format.js';

const SILENCE_MS = 12_000;
const BACKOFF_MS = [500, 1000, 2000, 5000];
const SLEPT_MS = 5000;
const SESSION_TIMEOUT_MS = 5000;

/**
 * meters: id -> the meter as the API lists it, with ageSeconds (s, null is unknown) at receivedAt.
 * load: as /api/load/status, with receivedAt; null before the first. alerts: id -> alert that has not
 * ended.
 * receivedAt, lostAt: ms of performance.now(). connected: frames are coming.
 * trouble: null, or why there is no connection: 'unreachable', 'refused'.
 */
export const store = {
  meters: new Map(),
  load: null,
  alerts: new Map(),
  connected: false,
  lostAt: null,
  trouble: null,
};

const listeners = new Set();
let pending = null;
let socket = null;
let running = false;
let attempts = 0;
let retryTimer = 0;
let lastFrameAt = 0;
let lastTick = {wallMs: 0, monoMs: 0};

/**
 * Calls fn(changes) at most once a frame, and once a second since ages grow.
 * changes: {plan, load, alerts, connection: bool, meters: Set of ids}; plan: meters came or went.
 * Gives a function that ends it.
 */
export function subscribe(fn) {
  listeners.add(fn);
  return () => listeners.delete(fn);
}

/** Connects, and keeps connected until stop(). */
export function start() {
  if (running) return;
  running = true;
  lastTick = clocks();
  connect();
}

/** Disconnects and forgets what was known: somebody else may be the next to look. */
export function stop() {
  running = false;
  drop();
  Object.assign(store, {meters: new Map(), load: null, alerts: new Map(), connected: false, lostAt: null, trouble: null});
  touch({plan: true, load: true, alerts: true, connection: true});
}

/** Age of a meter's reading now, s; null when nobody knows. */
export function ageOf(meter) {
  if (meter.ageSeconds === null || meter.ageSeconds === undefined) return null;
  return meter.ageSeconds + (performance.now() - meter.receivedAt) / 1000;
}

/** Age of the load status now, s; null before the first. */
export function loadAge() {
  return store.load === null ? null : (performance.now() - store.load.receivedAt) / 1000;
}

/** The service's own time now, unix ms; this computer's until the first frame came. */
export function serviceTime() {
  return store.load === null ? Date.now() : parseTime(store.load.timestamp) + loadAge() * 1000;
}

/**
 * How a meter's values have to look now: 'live', 'suspect', 'stale' or 'none' (never read).
 * Stale is also what the page cannot know to be fresh: too old, or the connection is lost.
 */
export function freshness(meter) {
  if (meter.quality === 'none') return 'none';
  const age = ageOf(meter);
  const fresh = store.connected && age !== null && age * 1000 <= meter.staleAfter;
  if (!fresh || meter.quality === 'stale') return 'stale';
  return meter.quality === 'suspect' ? 'suspect' : 'live';
}

/** Whether the load status is what holds now. */
export function loadIsLive() {
  return store.connected && store.load !== null && loadAge() * 1000 <= SILENCE_MS;
}

/** The alerts, worst first, then newest first. */
export function activeAlerts() {
  const order = ['critical', 'warning', 'info'];
  return [...store.alerts.values()]
    .sort((a, b) => order.indexOf(a.severity) - order.indexOf(b.severity) || b.since.localeCompare(a.since));
}

function connect() {
  clearTimeout(retryTimer);
  lastFrameAt = performance.now();
  const scheme = location.protocol === 'https:' ? 'wss' : 'ws';
  socket = new WebSocket(`${scheme}://${location.host}/ws`);
  socket.onmessage = (event) => take(JSON.parse(event.data));
  socket.onclose = lose;
}

function drop() {
  clearTimeout(retryTimer);
  if (socket === null) return;
  socket.onmessage = null;
  socket.onclose = null;
  socket.close();
  socket = null;
}

/** The connection is gone, or never came: says so at once, and tries again. */
function lose() {
  drop();
  const wasConnected = store.connected;
  store.connected = false;
  store.lostAt ??= performance.now();
  touch({connection: true});
  retryTimer = setTimeout(connect, BACKOFF_MS[Math.min(attempts, BACKOFF_MS.length - 1)]);
  attempts += 1;
  if (wasConnected) store.trouble = 'unreachable';
  else findTrouble();
}

/** A browser does not tell why a WebSocket was refused; a plain call does. */
async function findTrouble() {
  let trouble = 'refused';
  try {
    await loadSession({timeoutMs: SESSION_TIMEOUT_MS});
  } catch {
    trouble = 'unreachable';
  }
  if (!running || store.connected) return;
  store.trouble = trouble;
  touch({connection: true});
}

function take(frame) {
  lastFrameAt = performance.now();
  TAKE[frame.type]?.(frame.data);
}

const TAKE = {
  snapshot(data) {
    store.meters = new Map(data.meters.map((meter) => [meter.id, {...meter, receivedAt: lastFrameAt}]));
    store.load = {...data.load, receivedAt: lastFrameAt};
    store.alerts = new Map(data.alerts.filter(isActive).map((alert) => [alert.id, alert]));
    Object.assign(store, {connected: true, lostAt: null, trouble: null});
    attempts = 0;
    touch({plan: true, load: true, alerts: true, connection: true});
  },
  meter_reading({meterId, timestamp, ...values}) {
    merge(meterId, {...values, lastUpdate: timestamp, receivedAt: lastFrameAt});
  },
  meter_status({meterId, ...status}) {
    merge(meterId, status);
  },
  load_status(data) {
    store.load = {...data, receivedAt: lastFrameAt};
    touch({load: true});
  },
  alert(alert) {
    if (isActive(alert)) store.alerts.set(alert.id, alert);
    else store.alerts.delete(alert.id);
    touch({alerts: true});
  },
};

function isActive(alert) {
  return alert.until === null;
}

function merge(id, news) {
  const meter = store.meters.get(id);
  if (meter === undefined) return;
  store.meters.set(id, {...meter, ...news});
  touch({meters: [id]});
}

/** Notes a change, and tells the listeners with the next frame that is painted. */
function touch({plan = false, load = false, alerts = false, connection = false, meters = []}) {
  if (pending === null) {
    pending = {plan: false, load: false, alerts: false, connection: false, meters: new Set()};
    requestAnimationFrame(tell);
  }
  pending.plan ||= plan;
  pending.load ||= load;
  pending.alerts ||= alerts;
  pending.connection ||= connection;
  for (const id of meters) pending.meters.add(id);
}

function tell() {
  const changes = pending;
  pending = null;
  for (const listener of [...listeners]) listener(changes);
}

function clocks() {
  return {wallMs: Date.now(), monoMs: performance.now()};
}

/** Once a second: ages grow, a silent connection is given up, and so is one from before a sleep. */
function tick() {
  if (!running) return;
  const now = clocks();
  const sleptMs = now.wallMs - lastTick.wallMs - (now.monoMs - lastTick.monoMs);
  lastTick = now;
  const silent = now.monoMs - lastFrameAt > SILENCE_MS;
  if (socket !== null && (silent || sleptMs > SLEPT_MS)) lose();
  touch({});
}

setInterval(tick, 1000);
addEventListener('online', () => {
  if (running && !store.connected) {
    drop();
    connect();
  }
});
