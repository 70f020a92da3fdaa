/** Small parts that all pages are made of: icons, chips, notes, and the states of waiting. */

import {h, replace, setAttribute, setText, svg} from './dom.js';
import {UNKNOWN} from './format.js';
import {t} from './text.js';

/** Outlines on a field of 24 × 24, stroked. */
const ICONS = {
  add: 'M12 5v14M5 12h14',
  back: 'M19 12H5M11 6l-6 6 6 6',
  bad: 'M12 3 22 20H2ZM12 10v4M12 17v.5',
  building: 'M5 21V4h9v17M14 9h5v12M3 21h18M8 8h3M8 12h3M8 16h3',
  car: 'M3 16v-4l2.5-6h13L21 12v4ZM3 12h18M6 16v2M18 16v2',
  close: 'M6 6l12 12M18 6 6 18',
  dark: 'M20 14A8 8 0 1 1 10 4a7 7 0 0 0 10 10Z',
  delete: 'M4 7h16M9 7V4h6v3M6 7l1 13h10l1-13M10 11v5M14 11v5',
  device: 'M4 5h16v11H4ZM9 20h6M12 16v4',
  download: 'M12 4v11M7 11l5 5 5-5M4 20h16',
  edit: 'M4 20l1-5L16 4l4 4L9 19ZM14 6l4 4',
  good: 'M5 12.5 10 17.5 19.5 7',
  grid: 'M12 2v20M7 22l5-13 5 13M5 6h14M7 10h10M5 6v2.5M19 6v2.5',
  info: 'M12 11v6M12 7v.5M12 3a9 9 0 1 0 .1 0Z',
  light: 'M12 8a4 4 0 1 0 .1 0ZM12 2v2M12 20v2M2 12h2M20 12h2M5 5l1.5 1.5M17.5 17.5 19 19M5 19l1.5-1.5M17.5 6.5 19 5',
  meter: 'M4 4h16v16H4ZM8 14a4 4 0 0 1 8 0M12 14l2-3',
  offline: 'M3 3l18 18M5 12a10 10 0 0 1 4-2.5M2 8.5a15 15 0 0 1 4-2.6M19 12a10 10 0 0 0-3-2.1M22 8.5A15 15 0 0 0 11 5M9 16a5 5 0 0 1 6 0M12 19.5v.5',
  stale: 'M12 7v5l3.5 2M12 3a9 9 0 1 0 .1 0Z',
  sun: 'M12 8a4 4 0 1 0 .1 0ZM12 2v2M12 20v2M2 12h2M20 12h2M5 5l1.5 1.5M17.5 17.5 19 19M5 19l1.5-1.5M17.5 6.5 19 5',
  system: 'M4 6h9M17 6h3M4 12h3M11 12h9M4 18h9M17 18h3M15 4v4M9 10v4M15 16v4',
  zone: 'M3 11 12 4l9 7M6 9v11h12V9',
};

/** Icon and colour of each freshness, status, load quality and severity. */
export const LOOKS = {
  live: ['good', 'good'], suspect: ['warn', 'bad'], stale: ['idle', 'stale'], none: ['idle', 'info'],
  online: ['good', 'good'], pending: ['idle', 'stale'], offline: ['bad', 'offline'], error: ['bad', 'bad'],
  good: ['good', 'good'], degraded: ['warn', 'bad'], failsafe: ['bad', 'bad'], unmetered: ['bad', 'info'],
  critical: ['bad', 'bad'], warning: ['warn', 'bad'], info: ['info', 'info'],
};

/** Icon of each meter type. */
export const TYPE_ICONS = {grid: 'grid', building: 'building', solar: 'sun', zone: 'zone'};

/** An icon beside a word that says the same. */
export function icon(name) {
  return svg('svg', {class: 'icon', viewBox: '0 0 24 24', 'aria-hidden': 'true'}, svg('path', {d: ICONS[name]}));
}

/** A sign with icon and word. look: a key of LOOKS. Gives {node, update(look, text)}. */
export function chip(look, text) {
  const node = h('span');
  let shown = null;
  const update = (nextLook, nextText) => {
    const key = `${nextLook} ${nextText}`;
    if (key === shown) return;
    shown = key;
    const [kind, iconName] = LOOKS[nextLook];
    node.className = `chip ${kind}`;
    replace(node, icon(iconName), h('span', null, nextText));
  };
  update(look, text);
  return {node, update};
}

/** A number with its unit; "–" with "not known" where there is none. Gives {node, update(text, unit)}. */
export function measure(text = UNKNOWN, unit = '') {
  const number = h('span', {class: 'number'});
  const unitNode = h('span', {class: 'unit'});
  const node = h('span', {class: 'measure'}, number, unitNode);
  const update = (nextText, nextUnit) => {
    const known = nextText !== UNKNOWN;
    setText(number, nextText);
    setText(unitNode, known && nextUnit ? `\u00a0${nextUnit}` : '');
    setAttribute(number, 'title', known ? null : t('value.unknown'));
    setAttribute(number, 'role', known ? null : 'img');
    setAttribute(number, 'aria-label', known ? null : t('value.unknown'));
  };
  update(text, unit);
  return {node, update};
}

/** A framed part of a page with a heading. tools: nodes at the right of the heading. */
export function card(title, {tools = [], class: extra = ''} = {}, ...children) {
  const id = `card-${(nextId += 1)}`;
  return h(
    'section',
    {class: `card ${extra}`, 'aria-labelledby': id},
    h('header', {class: 'card-head'}, h('h2', {id}, title), h('div', {class: 'tools'}, tools)),
    children,
  );
}

/** A notice with icon. look: a key of LOOKS. */
export function note(look, ...children) {
  const [kind, iconName] = LOOKS[look];
  return h('div', {class: `note ${kind}`}, icon(iconName), h('div', {class: 'note-text'}, children));
}

/** A sign that something is being waited for. */
export function spinner(text = t('app.loading')) {
  return h('div', {class: 'waiting', role: 'status'}, h('span', {class: 'spinner', 'aria-hidden': 'true'}), text);
}

/** What failed and what to do, with a button to try again. error: an Error whose message says so. */
export function failed(error, retry) {
  const button = h('button', {class: 'button small', type: 'button', onclick: retry}, t('app.retry'));
  return h('div', {role: 'alert'}, note('critical', h('p', null, error.message), retry && button));
}

/** Shows a failure in a place; the same one again leaves it and its focus alone. */
export function showFailed(place, error, retry) {
  if (place.dataset.failed === error.message && place.querySelector('[role="alert"]')) return;
  place.dataset.failed = error.message;
  replace(place, failed(error, retry));
}

/** A place where nothing is yet. */
export function empty(text, ...actions) {
  return h('div', {class: 'empty'}, h('p', null, text), actions);
}

/** Names and values side by side. rows: [[name, node or text], …]; null rows are left out. */
export function facts(rows) {
  const row = ([name, value]) => h('div', null, h('dt', null, name), h('dd', null, value));
  return h('dl', {class: 'facts'}, rows.filter(Boolean).map(row));
}

/** Tells screen readers of a change, when they are done with what they say. */
export function announce(text) {
  setText(document.getElementById('announcer'), text);
}

/** Disables a button and shows a spinner in it while fn runs. Gives what fn gives. */
export async function busy(button, fn) {
  const label = [...button.childNodes];
  replace(button, h('span', {class: 'spinner', 'aria-hidden': 'true'}), label);
  button.disabled = true;
  try {
    return await fn();
  } finally {
    replace(button, label);
    button.disabled = false;
  }
}

let nextId = 0;
