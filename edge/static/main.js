/** The frame around the pages: navigation by #/…, theme, connection banner, login. */

import {get, loadSession, needsLogin, onSession} from './api.js';
import {h, patch, replace, setAttribute, setText} from './dom.js';
import {duration} from './format.js';
import {activeAlerts, lostFor, start, stop, store, subscribe} from './live.js';
import {announce, button, chip, empty, failed, icon, spinner} from './parts.js';
import {t} from './text.js';

const BOOT_RETRY_MS = 2000;
const PATIENCE_MS = 200;
const AHEAD_MS = 1500;

/** First part of the path after #/ -> its module, which exports page(params, leaving). */
const PAGES = {'': 'overview', meters: 'meters', add: 'add', edit: 'add', system: 'system'};
const NAV = {'': 'grid', meters: 'meter', system: 'system'};
const NAV_OF = {add: 'meters', edit: 'meters'};
const THEME_ICONS = {auto: 'device', light: 'sun', dark: 'dark'};

const main = document.getElementById('main');
const banner = document.getElementById('banner');
const links = new Map();
const badge = h('span.badge', {hidden: true});
const site = h('span.site', t('app.name'));
const sign = h('span');

/** The page that is shown: {node, title, leave: AbortController}. */
let current = null;
let turns = 0;
let knownAlerts = null;

function frame() {
	for (const [path, iconName] of Object.entries(NAV)) {
		links.set(path, h('a', {href: `#/${path}`}, icon(iconName), t(`${PAGES[path]}.title`), path === '' && badge));
	}
	const logo = document.querySelector('link[rel="icon"]').getAttribute('href');
	document.getElementById('top').replaceWith(
		h('a.skip.button.primary.visually-hidden', {href: '#main', onclick: skipToMain}, t('app.skip')),
		h('header.top',
			h('div.top-inner',
				h('a.brand.row', {href: '#/'}, h('img', {src: logo, alt: ''}), site),
				h('nav', {'aria-label': t('app.nav')}, [...links.values()]),
				h('div.row', sign, themeSwitch())),
			banner));
	replace(document.getElementById('foot'), t('app.name'), h('a', {href: '/api/docs'}, t('app.apiReference')));
}

/** The path has the page in it, so that the link may not go to #main. */
function skipToMain(event) {
	event.preventDefault();
	main.focus();
}

function themeSwitch() {
	const themes = Object.keys(THEME_ICONS);
	const chosen = () => localStorage.getItem('theme') ?? 'auto';
	const next = () => {
		const theme = themes[(themes.indexOf(chosen()) + 1) % themes.length];
		if (theme === 'auto') localStorage.removeItem('theme');
		else localStorage.setItem('theme', theme);
		dispatchEvent(new Event('theme'));
	};
	const node = button('', next, {class: 'quiet square'});
	const show = () => {
		replace(node, icon(THEME_ICONS[chosen()]));
		for (const name of ['title', 'aria-label']) setAttribute(node, name, t(`theme.${chosen()}`));
	};
	addEventListener('theme', show);
	show();
	return node;
}

function showConnection() {
	const lost = store.lostAt !== null;
	const wasLost = banner.hasChildNodes();
	patch(banner, h('div', {id: 'banner', role: 'alert'}, lost && lostBanner()));
	if (wasLost && store.connected) announce(t('live.back'));
	const [look, key] = store.connected ? ['live', 'live.on'] : lost ? ['offline', 'live.lost'] : ['pending', 'live.connecting'];
	patch(sign, h('span', chip(look, t(key))));
}

/** Its seconds are hidden from screen readers, which would be told of each of them. */
function lostBanner() {
	return h('div.banner', icon('offline'), h('div',
		h('strong', {'aria-hidden': 'true'}, t('live.lostFor', {duration: duration(lostFor())})),
		h('p', t('live.whyLost'))));
}

function showAlerts() {
	const alerts = activeAlerts();
	badge.hidden = alerts.length === 0;
	const said = h('span.visually-hidden', t('alerts.count', {n: alerts.length}));
	replace(badge, h('span', {'aria-hidden': 'true'}, alerts.length), said);
	const fresh = knownAlerts && alerts.find(({id}) => !knownAlerts.has(id));
	if (fresh) announce(t('alerts.new', {message: fresh.message}));
	knownAlerts = store.connected ? new Set(alerts.map(({id}) => id)) : null;
}

function follow(changes) {
	showConnection();
	if (changes.has('alerts')) showAlerts();
}

function pathParts() {
	try {
		return location.hash.replace(/^#?\/?/, '').split('/').map(decodeURIComponent);
	} catch {
		return [location.hash];
	}
}

async function show() {
	const turn = (turns += 1);
	const [name, ...params] = pathParts();
	for (const [path, link] of links) setAttribute(link, 'aria-current', path === (NAV_OF[name] ?? name) && 'page');
	const patience = setTimeout(() => replace(main, spinner()), current ? PATIENCE_MS : 0);
	const makePage = await loadPage(name, params);
	clearTimeout(patience);
	if (turn === turns) put(makePage, params);
}

/** Gives what makes a page. */
async function loadPage(name, [id]) {
	try {
		if (needsLogin()) return (await load('login')).page;
		if (!Object.hasOwn(PAGES, name)) return notFound;
		return (await load(name === 'meters' && id ? 'meter' : PAGES[name])).page;
	} catch (error) {
		console.error(error);
		return notLoaded;
	}
}

function load(module) {
	return import(`./${module}.js`);
}

function put(makePage, params) {
	const moved = current !== null;
	current?.leave.abort();
	const leave = new AbortController();
	current = {...makePage(params, leave.signal), leave};
	replace(main, current.node);
	setTitle();
	if (moved && !main.contains(document.activeElement)) main.focus({preventScroll: true});
	if (moved) scrollTo(0, 0);
}

function setTitle() {
	document.title = [current?.title, site.textContent].filter(Boolean).join(' · ');
}

function notFound() {
	return {node: empty(t('app.notFound'), h('a.button', {href: '#/'}, t('app.toOverview')))};
}

/** A module that failed is not loaded again: only a new page helps. */
function notLoaded() {
	return {node: failed(new Error(t('app.pageFailed')), () => location.reload())};
}

/** So that the other pages open at once, and also while the service is away. */
function loadAhead() {
	for (const module of [...Object.values(PAGES), 'meter', 'login']) load(module).catch(() => {});
}

async function becomeUser() {
	const locked = needsLogin();
	document.body.classList.toggle('locked', locked);
	setText(site, t('app.name'));
	if (locked) stop();
	else start();
	await Promise.all([show(), locked || nameSite()]);
}

async function nameSite() {
	try {
		setText(site, (await get('/api/system')).site.name);
		setTitle();
	} catch {
		// The name is a comfort: the pages tell what is wrong.
	}
}

async function boot() {
	try {
		await loadSession();
	} catch (error) {
		replace(main, failed(error));
		setTimeout(boot, BOOT_RETRY_MS);
		return;
	}
	addEventListener('hashchange', show);
	setTimeout(loadAhead, AHEAD_MS);
}

frame();
subscribe(follow);
onSession(becomeUser);
boot();
