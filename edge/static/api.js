/** Calls of the service: one fetch wrapper, its errors, and who is logged in. */

import {t} from './text.js';

const TIMEOUT_MS = 15_000;

/** Who uses the page: {required, name, role: 'admin' | 'reader' | null, csrfToken}; null at first. */
export let session = null;

let tellSession = () => {};

/** A call that failed. message: one sentence for a person; details: [{field, message}]. */
function apiError(message, {status = 0, code = 'UNREACHABLE', details = []} = {}) {
	return Object.assign(new Error(message), {status, code, details});
}

export function isAdmin() {
	return session.role === 'admin';
}

export function needsLogin() {
	return session.required && session.role === null;
}

/** Calls fn whenever somebody else, or nobody, turns out to be logged in. */
export function onSession(fn) {
	tellSession = fn;
}

export function withQuery(path, query) {
	const known = Object.entries(query).filter(([, value]) => value !== null && value !== undefined);
	return known.length ? `${path}?${new URLSearchParams(known)}` : path;
}

export function meterPath(id) {
	return `/api/energy-meters/${encodeURIComponent(id)}`;
}

// All calls give `data` of the answer and raise an apiError. options: {timeoutMs, signal}.

export function get(path, query = {}, options = {}) {
	return call('GET', withQuery(path, query), options);
}

export function post(path, body = {}, options = {}) {
	return call('POST', path, {...options, body});
}

export function put(path, body) {
	return call('PUT', path, {body});
}

export function remove(path) {
	return call('DELETE', path, {});
}

export async function loadSession(options) {
	become(await get('/api/session', {}, options));
}

export async function login(token) {
	become(await post('/api/login', {token}));
}

export async function logout() {
	become(await post('/api/logout'));
}

function become(next) {
	const key = (of) => of && `${of.required} ${of.name} ${of.role}`;
	const changed = key(next) !== key(session);
	session = next;
	if (changed) tellSession();
}

async function call(method, path, options) {
	const {response, answer} = await exchange(method, path, options);
	if (response.ok && answer?.success) return answer.data;
	const {status} = response;
	if (status === 401 && session) become({...session, required: true, role: null, csrfToken: null});
	const {error = t('error.unexpected', {status}), code = 'UNEXPECTED', details} = answer ?? {};
	throw apiError(error, {status, code, details});
}

/** answer: its JSON, or undefined where it is none (a proxy's page). */
async function exchange(method, path, {body, timeoutMs = TIMEOUT_MS, signal}) {
	const ends = [AbortSignal.timeout(timeoutMs), signal].filter(Boolean);
	const request = {method, headers: headersOf(method, body), body: JSON.stringify(body), cache: 'no-store'};
	let response;
	try {
		response = await fetch(path, {...request, signal: AbortSignal.any(ends)});
		return {response, answer: await response.json()};
	} catch (error) {
		if (error instanceof SyntaxError) return {response};
		if (error.name !== 'TimeoutError') throw apiError(t('error.unreachable'));
		throw apiError(t('error.timeout', {s: timeoutMs / 1000}));
	}
}

function headersOf(method, body) {
	const headers = {Accept: 'application/json'};
	if (body !== undefined) headers['Content-Type'] = 'application/json';
	if (method !== 'GET' && session?.csrfToken) headers['X-CSRF-Token'] = session.csrfToken;
	return headers;
}
