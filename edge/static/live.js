/**
 * What the service knows now, kept up by one WebSocket that reconnects by itself. Ages are counted
 * by performance.now() from what the service said, so a wrong clock of this computer does no harm.
 */

import {loadSession} from './api.js';
import {patch} from './dom.js';
import {parseTime} from './format.js';

const SILENCE_MS = 12_000;
const BACKOFF_MS = {first: 500, most: 5000};
const SLEPT_MS = 5000;
const SESSION_TIMEOUT_MS = 5000;
const SEVERITIES = ['critical', 'warning', 'info'];
const EVERYTHING = ['plan', 'load', 'alerts', 'connection'];

const nothingKnown = () => ({
	meters: new Map(), load: null, alerts: new Map(), connected: false, lostAt: null,
});

/**
 * meters: id -> the meter as the API lists it, with ageSeconds (null is unknown) at receivedAt.
 * load: as /api/load/status, with receivedAt. alerts: id -> alert that has not ended.
 * receivedAt, lostAt: ms of performance.now(). connected: frames are coming.
 */
export const store = nothingKnown();

const listeners = new Set();
let changes = null;
let socket = null;
let running = false;
let attempts = 0;
let retryTimer = 0;
let lastFrameAt = 0;
let lastTick = clocks();

/**
 * Calls fn(changes) now, at most once a frame, and once a second since ages grow; until `leaving`,
 * an AbortSignal. changes: a set of EVERYTHING; plan: meters came or went.
 */
export function subscribe(fn, leaving) {
	listeners.add(fn);
	leaving?.addEventListener('abort', () => listeners.delete(fn));
	fn(new Set(EVERYTHING));
}

/** Gives what view() makes, and keeps it up to date until `leaving`. */
export function live(view, leaving) {
	const node = view();
	subscribe(() => patch(node, view()), leaving);
	return node;
}

export function start() {
	if (running) return;
	running = true;
	connect();
}

/** Disconnects and forgets what was known: somebody else may be the next to look. */
export function stop() {
	running = false;
	drop();
	Object.assign(store, nothingKnown());
	touch(...EVERYTHING);
}

/** Age of a meter's reading now, s; null is unknown. */
export function ageOf({ageSeconds, receivedAt}) {
	return typeof ageSeconds === 'number' ? ageSeconds + secondsSince(receivedAt) : null;
}

/** s; null before the first load status. */
export function loadAge() {
	return store.load && secondsSince(store.load.receivedAt);
}

/** s; null while there is a connection. */
export function lostFor() {
	return store.lostAt && secondsSince(store.lostAt);
}

/** The service's own time now, unix ms; this computer's until the first frame came. */
export function serviceTime() {
	return store.load ? parseTime(store.load.timestamp) + loadAge() * 1000 : Date.now();
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

export function loadIsLive() {
	return store.connected && store.load !== null && loadAge() * 1000 <= SILENCE_MS;
}

export function activeAlerts() {
	const rank = ({severity}) => SEVERITIES.indexOf(severity);
	return [...store.alerts.values()].sort((a, b) => rank(a) - rank(b) || b.since.localeCompare(a.since));
}

function connect() {
	lastFrameAt = performance.now();
	socket = new WebSocket(`${location.protocol.replace('http', 'ws')}//${location.host}/ws`);
	socket.onmessage = (event) => take(JSON.parse(event.data));
	socket.onclose = lose;
}

function drop() {
	clearTimeout(retryTimer);
	if (socket === null) return;
	socket.onmessage = socket.onclose = null;
	socket.close();
	socket = null;
}

/** The connection is gone, or never came: says so at once, and tries again. */
function lose() {
	drop();
	// Only a plain call tells whether a login is needed.
	if (!store.connected) loadSession({timeoutMs: SESSION_TIMEOUT_MS}).catch(() => {});
	store.connected = false;
	store.lostAt ??= performance.now();
	touch('connection');
	retryTimer = setTimeout(connect, Math.min(BACKOFF_MS.first * 2 ** attempts, BACKOFF_MS.most));
	attempts += 1;
}

/** Gives up a silent connection, and one from before a sleep; lets ages grow. */
function tick() {
	const now = clocks();
	const sleptMs = now.wallMs - lastTick.wallMs - (now.monoMs - lastTick.monoMs);
	lastTick = now;
	if (!running) return;
	if (socket && (now.monoMs - lastFrameAt > SILENCE_MS || sleptMs > SLEPT_MS)) lose();
	touch();
}

function clocks() {
	return {wallMs: Date.now(), monoMs: performance.now()};
}

function secondsSince(monoMs) {
	return (performance.now() - monoMs) / 1000;
}

const TAKE = {
	snapshot({meters, load, alerts}) {
		store.meters = new Map(meters.map((meter) => [meter.id, received(meter)]));
		store.load = received(load);
		store.alerts = new Map(alerts.filter(isActive).map((alert) => [alert.id, alert]));
		Object.assign(store, {connected: true, lostAt: null});
		attempts = 0;
		touch(...EVERYTHING);
	},
	meter_reading({meterId, timestamp, ...values}) {
		merge(meterId, received({...values, lastUpdate: timestamp}));
	},
	meter_status({meterId, ...status}) {
		merge(meterId, status);
	},
	load_status(load) {
		store.load = received(load);
		touch('load');
	},
	alert(alert) {
		if (isActive(alert)) store.alerts.set(alert.id, alert);
		else store.alerts.delete(alert.id);
		touch('alerts');
	},
};

function take({type, data}) {
	lastFrameAt = performance.now();
	TAKE[type]?.(data);
}

function received(data) {
	return {...data, receivedAt: lastFrameAt};
}

function isActive({until}) {
	return until === null;
}

function merge(id, news) {
	const meter = store.meters.get(id);
	if (meter) store.meters.set(id, {...meter, ...news});
	touch();
}

/** Tells the listeners of changes with the next frame that is painted. */
function touch(...news) {
	if (changes === null) {
		changes = new Set();
		requestAnimationFrame(tell);
	}
	for (const one of news) changes.add(one);
}

function tell() {
	const told = changes;
	changes = null;
	for (const listener of listeners) listener(told);
}

setInterval(tick, 1000);
