/** What all pages are made of. */

import {h, replace, setText, svg} from './dom.js';
import {UNKNOWN} from './format.js';
import {t} from './text.js';

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
	meter: 'M4 4h16v16H4ZM8 14a4 4 0 0 1 8 0M12 14l2-3',
	offline: 'M3 3l18 18M5 12a10 10 0 0 1 4-2.5M2 8.5a15 15 0 0 1 4-2.6M19 12a10 10 0 0 0-3-2.1M22 8.5A15 15 0 0 0 11 5M9 16a5 5 0 0 1 6 0M12 19.5v.5',
	stale: 'M12 7v5l3.5 2M12 3a9 9 0 1 0 .1 0Z',
	sun: 'M12 8a4 4 0 1 0 .1 0ZM12 2v2M12 20v2M2 12h2M20 12h2M5 5l1.5 1.5M17.5 17.5 19 19M5 19l1.5-1.5M17.5 6.5 19 5',
	system: 'M4 6h9M17 6h3M4 12h3M11 12h9M4 18h9M17 18h3M15 4v4M9 10v4M15 16v4',
	zone: 'M3 11 12 4l9 7M6 9v11h12V9',
};

/** Colour of each freshness, status, load quality and severity. */
const COLORS = {
	live: 'good', suspect: 'warn', stale: 'idle', none: 'idle', online: 'good', pending: 'idle', offline: 'bad', error: 'bad',
	good: 'good', degraded: 'warn', failsafe: 'bad', unmetered: 'bad', critical: 'bad', warning: 'warn', info: 'info',
};
const COLOR_ICONS = {good: 'good', warn: 'bad', bad: 'bad', idle: 'stale', info: 'info'};

export const TYPE_ICONS = {grid: 'grid', building: 'building', solar: 'sun', zone: 'zone'};

export function icon(name) {
	return svg('svg.icon', {viewBox: '0 0 24 24', 'aria-hidden': 'true'}, svg('path', {d: ICONS[name]}));
}

/** The icon of a look, which is a key of COLORS. */
export function lookIcon(look) {
	const node = icon(COLOR_ICONS[COLORS[look]]);
	node.classList.add(COLORS[look]);
	return node;
}

/** A sign with icon and word. */
export function chip(look, text) {
	return h(`span.chip.${COLORS[look]}`, lookIcon(look), h('span', text));
}

/** A number with its unit, or "–" for what is not known. */
export function measure(text, unit) {
	if (text !== UNKNOWN) return h('span.measure', h('span.number', text), unit && h('span.unit', `\u00a0${unit}`));
	const said = t('value.unknown');
	return h('span.measure', h('span.number', {title: said, role: 'img', 'aria-label': said}, text));
}

/** A framed part of a page with a heading. tools: nodes at the right of it. */
export function card(title, children, {tools, ...props} = {}) {
	return h('section.card', {'aria-label': title, ...props},
		h('header.row.apart', h('h2', title), tools && h('div.row', tools)), children);
}

export function pageHead(title, ...tools) {
	return h('div.page-head.row.apart', h('h1', title), tools);
}

export function note(look, ...children) {
	return h(`div.note.${COLORS[look]}`, lookIcon(look), h('div', children));
}

/** A button. name: of its icon, or null. props: as of `h`. */
export function button(text, onclick, {icon: name, ...props} = {}) {
	return h('button.button', {type: 'button', onclick, ...props}, name && icon(name), text);
}

export function spinner(text = t('app.loading')) {
	return h('div.waiting.row', {role: 'status'}, turning(), text);
}

/** What failed and what to do, as error.message says, with a button to try again. */
export function failed(error, retry) {
	return h('div', {role: 'alert'}, note('critical', h('p', error.message), retry && button(t('app.retry'), retry, {class: 'small'})));
}

export function empty(text, ...actions) {
	return h('div.empty', h('p', text), actions);
}

/** Names and values side by side. rows: [[name, node or text], …]. */
export function facts(rows) {
	return h('dl.facts.lined', rows.map(([name, value]) => h('div.row.apart', h('dt.muted', name), h('dd.number', value))));
}

/** Tells screen readers of a change, when they are done with what they say. */
export function announce(text) {
	setText(document.getElementById('announcer'), text);
}

/** Disables a button and shows a spinner in it while fn runs. Gives what fn gives. */
export async function busy(button, fn) {
	const label = [...button.childNodes];
	replace(button, turning(), label);
	button.disabled = true;
	try {
		return await fn();
	} finally {
		replace(button, label);
		button.disabled = false;
	}
}

function turning() {
	return h('span.spinner', {'aria-hidden': 'true'});
}
