/** The service's own health: schedule, lines, journal, uplinks, problems, log, and who is logged in. */

import {problems} from './alerts.js';
import {get, isAdmin, logout, repeat, session} from './api.js';
import {h, keyedList, replace, setText} from './dom.js';
import {bytes, dateTime, duration, isKnown, number, parseTime} from './format.js';
import {store, subscribe} from './live.js';
import {busy, card, chip, empty, facts, note, showFailed, spinner} from './parts.js';
import {t} from './text.js';

const HEALTH_EVERY_MS = 2000;
const LOG_EVERY_MS = 3000;
const LOG_LINES = 200;
const CLOCK_OFF_MS = 5000;
/** Later than this at the 99th percentile is no longer on time. */
const LATE_MS = 25;

export function page() {
  const views = [serviceCard(), scheduleCard(), journalCard(), linesCard(), sinksCard()];
  const trouble = problems();
  const log = logCard();
  const place = h('div', null, spinner());
  const nodes = views.map((view) => view.node);
  const cards = h('div', {class: 'stack', hidden: true}, h('div', {class: 'grid'}, nodes.slice(0, 3)), nodes.slice(3));
  const load = async () => {
    try {
      const system = await get('/api/system');
      for (const view of views) view.update(system);
      cards.hidden = false;
      cards.classList.remove('stale');
      replace(place, system.notices.map((text) => note('info', h('p', null, text))));
    } catch (error) {
      cards.classList.add('stale');
      showFailed(place, error, () => loop.again());
    }
  };
  const loop = repeat(load, HEALTH_EVERY_MS);
  const unsubscribe = subscribe(({connection}) => connection && loop.again());
  const head = h('div', {class: 'page-head'}, h('h1', null, t('system.title')), account());
  const node = h('div', {class: 'stack'}, head, place, cards, trouble.node, log.node);
  const destroy = () => [loop.stop, unsubscribe, trouble.destroy, log.stop].forEach((end) => end());
  return {node, title: t('system.title'), destroy};
}

// --- Who is logged in ---

function account() {
  if (!session.required) return h('span', {class: 'muted'}, t('system.open'));
  const fault = h('p', {class: 'fault', role: 'alert'});
  const leave = () => busy(button, logout).catch((error) => setText(fault, error.message));
  const button = h('button', {class: 'button small', type: 'button', onclick: leave}, t('system.logout'));
  const who = t('system.account', {name: session.name, role: t(`role.${session.role}`)});
  return h('div', {class: 'row'}, h('span', {class: 'muted'}, who), button, fault);
}

// --- Cards of figures ---

/** A card of facts. rows: [label, function of /api/system that gives the text]; look: its sign. */
function figuresCard(title, rows, look) {
  const sign = chip('pending', '');
  const values = rows.map(() => h('span', {class: 'number'}));
  const node = card(title, {tools: look ? [sign.node] : []}, facts(rows.map(([label], index) => [label, values[index]])));
  const update = (system) => {
    rows.forEach(([, textOf], index) => setText(values[index], textOf(system)));
    if (look) sign.update(...look(system));
  };
  return {node, update};
}

function serviceCard() {
  return figuresCard(t('system.service'), [
    [t('system.site'), ({site}) => site.name],
    [t('system.version'), ({version}) => version],
    [t('system.uptime'), ({uptimeSeconds}) => duration(uptimeSeconds)],
    [t('system.started'), ({startedAt}) => dateTime(parseTime(startedAt))],
    [t('system.clock'), ({timestamp}) => clockText(parseTime(timestamp))],
    [t('system.meters'), ({meters}) => metersText(meters)],
  ]);
}

function clockText(serviceMs) {
  const offMs = Math.abs(Date.now() - serviceMs);
  const text = dateTime(serviceMs);
  return offMs < CLOCK_OFF_MS ? text : `${text}: ${t('system.clockOff', {duration: duration(offMs / 1000)})}`;
}

function metersText(counts) {
  const parts = Object.entries(counts).map(([status, n]) => `${n} ${t(`status.${status}`).toLowerCase()}`);
  return parts.join(', ') || '0';
}

function scheduleCard() {
  return figuresCard(
    t('system.schedule'),
    [
      [t('system.lateness'), ({schedule}) => latenessText(schedule)],
      [t('system.ticks'), ({schedule}) => number(schedule.ticks)],
      [t('system.missed'), ({schedule}) => number(schedule.missedTicks)],
      [t('system.overruns'), ({schedule}) => number(schedule.overruns)],
    ],
    ({schedule}) => (isLate(schedule) ? ['degraded', t('system.late')] : ['good', t('system.onTime')]),
  );
}

function isLate({latenessP99Ms}) {
  return isKnown(latenessP99Ms) && latenessP99Ms > LATE_MS;
}

function latenessText({latenessP50Ms, latenessP99Ms, latenessMaxMs}) {
  const known = [latenessP50Ms, latenessP99Ms, latenessMaxMs].filter(isKnown);
  return known.length ? `${known.map((ms) => number(ms, 1)).join(' / ')} ms` : t('system.latenessSoon');
}

function journalCard() {
  const of = (textOf) => ({journal}) => textOf(journal);
  const figures = figuresCard(
    t('system.journal'),
    [
      [t('system.recorded'), of(({recorded}) => number(recorded))],
      [t('system.dropped'), of(({dropped}) => number(dropped))],
      [t('system.waiting'), of(({waiting}) => number(waiting))],
      [t('system.size'), of((journal) => t('system.ofMax', {bytes: bytes(journal.bytes), max: bytes(journal.maxBytes)}))],
      [t('system.written'), of(({writtenBytes}) => bytes(writtenBytes))],
      [t('system.slowSyncs'), of(({slowSyncs}) => number(slowSyncs))],
      [t('system.oldest'), of(({oldest}) => dateTime(parseTime(oldest)))],
    ],
    of(({recording}) => (recording ? ['good', t('system.recording')] : ['error', t('system.notRecording')])),
  );
  const absent = card(t('system.journal'), {}, empty(t('system.noJournal')));
  const notices = h('div', {class: 'stack'});
  const node = h('div', null, figures.node, absent);
  figures.node.append(notices);
  const update = (system) => {
    const {journal} = system;
    absent.hidden = journal !== null;
    figures.node.hidden = journal === null;
    if (journal === null) return;
    figures.update(system);
    const trouble = journal.lastError ? [note('critical', h('p', null, journal.lastError))] : [];
    replace(notices, trouble, journal.notices.map((text) => note('info', h('p', null, text))));
  };
  return {node, update};
}

// --- Lists ---

/** A card with a list. describe(row) -> {sign: [look, word], details, trouble: a sentence or null}. */
function listCard(title, none, rowsOf, describe) {
  const items = h('ul', {class: 'items'});
  const nothing = empty(none);
  const list = keyedList(items, ({name}) => name, (row) => itemRow(row, describe));
  const update = (system) => {
    const rows = rowsOf(system);
    list(rows);
    nothing.hidden = rows.length > 0;
  };
  return {node: card(title, {}, items, nothing), update};
}

function itemRow({name}, describe) {
  const sign = chip('pending', '');
  const details = h('span', {class: 'muted'});
  const trouble = h('span', {class: 'fault'});
  const update = (row) => {
    const about = describe(row);
    sign.update(...about.sign);
    setText(details, about.details);
    setText(trouble, about.trouble ?? '');
  };
  return {node: h('li', null, h('strong', {class: 'mono'}, name), sign.node, details, trouble), update};
}

function linesCard() {
  return listCard(t('system.lines'), t('system.noLines'), ({lines}) => lines, (line) => ({
    sign: line.connected ? ['online', t('system.connected')] : ['offline', t('system.disconnected')],
    details: t('system.opened', {n: line.opened}) + (line.messages ? `, ${t('system.heard', line.messages)}` : ''),
    trouble: line.lastError,
  }));
}

function sinksCard() {
  return listCard(t('system.sinks'), t('system.noSinks'), ({sinks}) => sinks, (sink) => ({
    sign: sink.connected ? ['online', t('system.sending')] : ['offline', t('system.notSending')],
    details: t('system.sent', {
      sent: number(sink.sent), backlog: number(sink.backlog), rejected: number(sink.rejected), lost: number(sink.lost),
    }),
    trouble: sink.lastError,
  }));
}

// --- Log ---

function logCard() {
  if (!isAdmin()) {
    return {node: card(t('system.log'), {}, note('info', h('p', null, t('system.logAdmin')))), stop: () => {}};
  }
  const place = h('div', null, spinner());
  const lines = h('pre', {class: 'code log', tabindex: '0', role: 'group', 'aria-label': t('system.log')});
  let shown = null;
  const load = async () => {
    try {
      const log = await get('/api/system/log', {lines: LOG_LINES});
      const text = log.join('\n');
      if (text === shown) return;
      shown = text;
      replace(place, log.length ? lines : empty(t('system.logEmpty')));
      showLog(lines, log);
    } catch (error) {
      if (shown !== null && !store.connected) return;
      shown = null;
      showFailed(place, error, () => loop.again());
    }
  };
  const loop = repeat(load, LOG_EVERY_MS);
  return {node: card(t('system.log'), {}, place), stop: loop.stop};
}

/** Shows the newest line, unless somebody has scrolled up to read. */
function showLog(node, log) {
  const atEnd = node.scrollHeight - node.scrollTop - node.clientHeight < 8;
  replace(node, log.map((line) => h('span', {class: levelOf(line)}, `${line}\n`)));
  if (atEnd) node.scrollTop = node.scrollHeight;
}

function levelOf(line) {
  if (/ (ERROR|CRITICAL) /.test(line)) return 'error';
  return / WARNING /.test(line) ? 'warning' : null;
}
