/** The service's own health, its log, and who is logged in. */

import {problems} from './alerts.js';
import {get, isAdmin, logout, session} from './api.js';
import {h, patch, setText} from './dom.js';
import {dateTime, duration, isKnown, megabytes, number, parseTime} from './format.js';
import {activeAlerts, subscribe} from './live.js';
import {busy, button, card, chip, empty, facts, note, pageHead} from './parts.js';
import {upToDate} from './refresh.js';
import {t} from './text.js';

const HEALTH_EVERY_MS = 2000;
const LOG_EVERY_MS = 3000;
const LOG_LINES = 200;
const CLOCK_OFF_MS = 5000;
const LOOKS = {ok: 'good', warning: 'warning', fault: 'critical'};

export function page(params, leaving) {
	const title = t('system.title');
	const content = h('div.stack');
	const health = upToDate(content, async () => patch(content, view(await get('/api/system'))), HEALTH_EVERY_MS, leaving);
	subscribe((changes) => changes.has('connection') && health.again(), leaving);
	return {node: h('div.stack', pageHead(title, account()), health.node, problems(leaving), logCard(leaving)), title};
}

function view(system) {
	return h('div.stack',
		notes(system.notices),
		health(system.health),
		h('div.grid', service(system), schedule(system.schedule), journal(system.journal)),
		lines(system.lines), sinks(system.sinks));
}

function health(rows) {
	const item = ({name, state, text}) => h('li.row', {dataset: {key: name}},
		h('strong', t(`health.${name}`)), chip(LOOKS[state], t(`health.${state}`)), h('span', text));
	return card(t('health.title'), h('ul.lined', rows.map(item)));
}

function notes(texts) {
	return texts.map((text) => note('info', text));
}

function account() {
	if (!session.required) return h('span.muted', t('system.open'));
	const fault = h('p.fault', {role: 'alert'});
	const leave = button(t('system.logout'), () => busy(leave, logout).catch(({message}) => setText(fault, message)), {class: 'small'});
	const who = t('system.account', {name: session.name, role: t(`role.${session.role}`)});
	return h('div.row', h('span.muted', who), leave, fault);
}

/** A card of facts. figures: key of the label -> text. sign: a chip. */
function figuresCard(key, figures, sign, ...more) {
	const rows = Object.entries(figures).map(([label, text]) => [t(`system.${label}`), text]);
	return card(t(`system.${key}`), [facts(rows), more], {tools: sign});
}

function service({version, uptimeSeconds, timestamp, meters}) {
	return figuresCard('service', {
		version,
		uptime: duration(uptimeSeconds),
		clock: clockText(parseTime(timestamp)),
		meters: metersText(meters),
	});
}

function clockText(serviceMs) {
	const offMs = Math.abs(Date.now() - serviceMs);
	const text = dateTime(serviceMs);
	return offMs < CLOCK_OFF_MS ? text : `${text}: ${t('system.clockOff', {duration: duration(offMs / 1000)})}`;
}

function metersText(counts) {
	return Object.entries(counts).map(([status, n]) => `${n} ${t(`status.${status}`).toLowerCase()}`).join(', ') || '0';
}

/** Late is what the service has an alert for. */
function schedule({ticks, missedTicks, overruns, ...lateness}) {
	const late = activeAlerts().find(({kind}) => kind === 'schedule_late');
	const sign = late ? chip(late.severity, t('system.late')) : chip('good', t('system.onTime'));
	return figuresCard('schedule', {
		lateness: latenessText(lateness), ticks: number(ticks), missed: number(missedTicks), overruns: number(overruns),
	}, sign);
}

function latenessText({latenessP50Ms, latenessP99Ms, latenessMaxMs}) {
	const known = [latenessP50Ms, latenessP99Ms, latenessMaxMs].filter(isKnown);
	return known.length ? `${known.map((ms) => number(ms, 1)).join(' / ')} ms` : t('system.latenessSoon');
}

function journal(state) {
	if (state === null) return card(t('system.journal'), empty(t('system.noJournal')));
	const sign = state.recording ? chip('good', t('system.recording')) : chip('error', t('system.notRecording'));
	return figuresCard('journal', {
		recorded: number(state.recorded),
		dropped: number(state.dropped),
		waiting: number(state.waiting),
		size: t('system.ofMax', {size: megabytes(state.bytes), max: megabytes(state.maxBytes)}),
		oldest: dateTime(parseTime(state.oldest)),
	}, sign, state.lastError && note('critical', state.lastError), notes(state.notices));
}

/** rows: each has name, connected and lastError. */
function listCard(key, none, rows, detailsOf, [on, off]) {
	const item = (row) => h('li', {dataset: {key: row.name}},
		h('div.row', h('strong.mono', row.name), row.connected ? chip('online', t(on)) : chip('offline', t(off)), detailsOf(row)),
		h('p.fault', row.lastError));
	return card(t(key), rows.length ? h('ul.lined', rows.map(item)) : empty(t(none)));
}

function lines(rows) {
	const details = ({opened, messages}) =>
		h('span.muted', t(opened ? 'system.opened' : 'system.neverOpened', {n: opened}), messages && `, ${t('system.heard', messages)}`);
	return listCard('system.lines', 'system.noLines', rows, details, ['system.connected', 'system.disconnected']);
}

function sinks(rows) {
	const details = ({sent, backlog, rejected, lost}) => h('span.muted', t('system.sent', {
		sent: number(sent), backlog: number(backlog), rejected: number(rejected), lost: number(lost),
	}));
	return listCard('system.sinks', 'system.noSinks', rows, details, ['system.sending', 'system.notSending']);
}

function logCard(leaving) {
	if (!isAdmin()) return card(t('system.log'), note('info', t('system.logAdmin')));
	const place = h('div');
	const log = upToDate(place, async () => showLog(place, await get('/api/system/log', {lines: LOG_LINES})), LOG_EVERY_MS, leaving);
	return card(t('system.log'), log.node);
}

/** Shows the newest line, unless somebody has scrolled up to read. */
function showLog(place, lines) {
	const old = place.querySelector('pre');
	const atEnd = !old || old.scrollHeight - old.scrollTop - old.clientHeight < 8;
	const box = h('pre.code.log', {tabindex: 0, role: 'group', 'aria-label': t('system.log')},
		lines.map((line) => h('span', {class: levelOf(line)}, `${line}\n`)));
	patch(place, h('div', lines.length ? box : empty(t('system.logEmpty'))));
	if (atEnd && place.firstChild) place.firstChild.scrollTop = place.firstChild.scrollHeight;
}

function levelOf(line) {
	if (/ (ERROR|CRITICAL) /.test(line)) return 'bad';
	return / WARNING /.test(line) && 'warn';
}
