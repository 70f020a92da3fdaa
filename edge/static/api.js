/** Calls of the service: one fetch wrapper, its errors, and who is logged in. */

import {t} from './text.js';

const TIMEOUT_MS = 15_000;

/** Who uses the page: {required, name, role: 'admin' | 'reader' | null, csrfToken}; null at first. */
export let session = null;

let tellSession = () => {};

/** A call that failed. message: one sentence for a person; details: [{field, message}]. */
class ApiError extends Error {
  constructor(message, {status = 0, code = 'UNREACHABLE', details = []} = {}) {
    super(message);
    this.status = status;
    this.code = code;
    this.details = details;
  }
}

/** Whether the user may change things. */
export function isAdmin() {
  return session?.role === 'admin';
}

/** Whether the user has to log in before anything is shown. */
export function needsLogin() {
  return session !== null && session.required && session.role === null;
}

/** Calls fn whenever somebody else, or nobody, turns out to be logged in. */
export function onSession(fn) {
  tellSession = fn;
}

/** GET; gives `data` of the answer. query: null values are left out. Raises ApiError. */
export function get(path, query = {}, options = {}) {
  return call('GET', path + asQuery(query), options);
}

/** POST a JSON body; gives `data` of the answer. options: {timeoutMs, signal}. Raises ApiError. */
export function post(path, body, options = {}) {
  return call('POST', path, {...options, body});
}

/** PUT a JSON merge patch; gives `data` of the answer. Raises ApiError. */
export function put(path, body, options = {}) {
  return call('PUT', path, {...options, body});
}

/** DELETE; gives `data` of the answer. Raises ApiError. */
export function remove(path, options = {}) {
  return call('DELETE', path, options);
}

/** A path with its query, for links to downloads. */
export function asLink(path, query) {
  return path + asQuery(query);
}

/** Asks who is logged in. Raises ApiError. */
export async function loadSession(options = {}) {
  become(await call('GET', '/api/session', options));
}

/** Logs in with a token; the service sets a cookie. Raises ApiError. */
export async function login(token) {
  become(await call('POST', '/api/login', {body: {token}, atLogin: true}));
}

/** Logs out. Raises ApiError. */
export async function logout() {
  become(await call('POST', '/api/logout', {body: {}}));
}

/**
 * Runs an async fn now, and again everyMs after it ended; not while the page is hidden.
 * Gives {again, stop}; again() runs it at once.
 */
export function repeat(fn, everyMs) {
  let timer = 0;
  let stopped = false;
  let running = false;
  const again = async () => {
    clearTimeout(timer);
    if (running || stopped || document.hidden) return;
    running = true;
    await fn();
    running = false;
    if (!stopped) timer = setTimeout(again, everyMs);
  };
  const stop = () => {
    stopped = true;
    clearTimeout(timer);
    document.removeEventListener('visibilitychange', again);
  };
  document.addEventListener('visibilitychange', again);
  again();
  return {again, stop};
}

function become(next) {
  const key = (of) => of && `${of.required} ${of.name} ${of.role}`;
  const changed = key(next) !== key(session);
  session = next;
  if (changed) tellSession();
}

function asQuery(query) {
  const known = Object.entries(query).filter(([, value]) => value !== null && value !== undefined);
  return known.length ? `?${new URLSearchParams(known)}` : '';
}

async function call(method, path, {body, timeoutMs = TIMEOUT_MS, signal, atLogin = false}) {
  const response = await send(method, path, body, timeoutMs, signal);
  const answer = await answerOf(response);
  if (response.ok && answer?.success) return answer.data;
  if (response.status === 401 && !atLogin) {
    become({...session, required: true, role: null, csrfToken: null});
  }
  throw new ApiError(answer?.error ?? t('error.unexpected', {status: response.status}), {
    status: response.status,
    code: answer?.code ?? 'UNEXPECTED',
    details: answer?.details ?? [],
  });
}

async function send(method, path, body, timeoutMs, signal) {
  const stop = new AbortController();
  const timer = setTimeout(() => stop.abort(), timeoutMs);
  signal?.addEventListener('abort', () => stop.abort());
  try {
    return await fetch(path, {
      method,
      headers: headersOf(method, body),
      body: body === undefined ? undefined : JSON.stringify(body),
      signal: stop.signal,
      cache: 'no-store',
    });
  } catch {
    if (signal?.aborted) throw new ApiError(t('error.aborted'), {code: 'ABORTED'});
    if (stop.signal.aborted) throw new ApiError(t('error.timeout', {s: timeoutMs / 1000}), {code: 'TIMEOUT'});
    throw new ApiError(t('error.unreachable'));
  } finally {
    clearTimeout(timer);
  }
}

function headersOf(method, body) {
  const headers = {Accept: 'application/json'};
  if (body !== undefined) headers['Content-Type'] = 'application/json';
  if (method !== 'GET' && session?.csrfToken) headers['X-CSRF-Token'] = session.csrfToken;
  return headers;
}

/** The JSON of an answer, or null where it is none (a proxy's page, a cut connection). */
async function answerOf(response) {
  try {
    return await response.json();
  } catch {
    return null;
  }
}
