/** The frame around the pages: navigation by #/…, theme, connection banner, login. */

import {loadSession, needsLogin, onSession, get} from './api.js';
import {h, replace, setText} from './dom.js';
import {allowance, duration, withUnit} from './format.js';
import {activeAlerts, start, stop, store, subscribe} from './live.js';
import {announce, chip, empty, failed, icon, note, spinner} from './parts.js';
import {t} from './text.js';

const BOOT_RETRY_MS = 2000;
const PATIENCE_MS = 200;
const AHEAD_MS = 1500;
const THEMES = ['auto', 'light', 'dark'];

/** First part of the path after #/ -> its page module. */
const PAGES = {
  '': () => import('./overview.js'),
  meters: ([id]) => (id ? import('./meter.js') : import('./meters.js')),
  add: () => import('./add.js'),
  edit: () => import('./add.js'),
  system: () => import('./system.js'),
};
const NAV = [['', 'overview', 'grid'], ['meters', 'meters', 'meter'], ['system', 'system', 'system']];
const NAV_OF = {add: 'meters', edit: 'meters'};

const main = document.getElementById('main');
const links = new Map();
const badge = h('span', {class: 'badge', hidden: true});
const site = h('span', {class: 'site'}, t('app.name'));
const state = chip('pending', t('live.connecting'));
const lost = banner();

let current = null;
let turns = 0;
let lastQuality = null;
let knownAlerts = null;

function frame() {
  for (const [path, name, iconName] of NAV) {
    const more = path === '' ? badge : null;
    links.set(path, h('a', {href: `#/${path}`}, icon(iconName), t(`nav.${name}`), more));
  }
  const skip = h('a', {class: 'skip', href: '#main', onclick: skipToMain}, t('app.skip'));
  const brand = h('a', {class: 'brand', href: '#/'}, h('img', {src: logo(), alt: ''}), site);
  const nav = h('nav', {class: 'nav', 'aria-label': t('app.nav')}, [...links.values()]);
  const tools = h('div', {class: 'tools'}, state.node, themeSwitch());
  document.getElementById('top').replaceWith(
    skip,
    h('header', {class: 'top'}, h('div', {class: 'top-inner'}, brand, nav, tools), document.getElementById('banner')),
  );
  const reference = h('a', {href: '/api/docs'}, t('app.apiReference'));
  replace(document.getElementById('foot'), h('span', null, t('app.name')), reference);
}

function logo() {
  return document.querySelector('link[rel="icon"]').getAttribute('href');
}

/** The path has the page in it, so that the link may not go to #main. */
function skipToMain(event) {
  event.preventDefault();
  main.focus();
}

// --- Theme ---

function themeSwitch() {
  const button = h('button', {class: 'button quiet square', type: 'button', onclick: nextTheme});
  const show = () => {
    const theme = chosenTheme();
    replace(button, icon({auto: 'device', light: 'light', dark: 'dark'}[theme]));
    button.title = t(`theme.${theme}`);
    button.setAttribute('aria-label', t(`theme.${theme}`));
  };
  addEventListener('theme', show);
  show();
  return button;
}

function chosenTheme() {
  return localStorage.getItem('theme') ?? 'auto';
}

function nextTheme() {
  const theme = THEMES[(THEMES.indexOf(chosenTheme()) + 1) % THEMES.length];
  if (theme === 'auto') localStorage.removeItem('theme');
  else localStorage.setItem('theme', theme);
  dispatchEvent(new Event('theme'));
}

// --- Connection ---

/** Its seconds are hidden from screen readers, which would be told of each of them. */
function banner() {
  const place = document.getElementById('banner');
  const since = h('strong', {'aria-hidden': 'true'});
  const why = h('p');
  const node = h('div', {class: 'banner'}, icon('offline'), h('div', null, since, why));
  return {
    show(seconds, trouble) {
      setText(since, t('live.lostFor', {duration: duration(seconds)}));
      setText(why, t(`live.${trouble ?? 'unreachable'}`));
      if (node.parentNode === null) place.append(node);
    },
    hide() {
      if (node.parentNode === null) return;
      node.remove();
      if (store.connected) announce(t('live.back'));
    },
  };
}

function showConnection() {
  if (store.connected) state.update('live', t('live.on'));
  else if (store.lostAt === null) state.update('pending', t('live.connecting'));
  else state.update('offline', t('live.lost'));
  if (store.lostAt === null) lost.hide();
  else lost.show((performance.now() - store.lostAt) / 1000, store.trouble);
}

function showAlerts() {
  const alerts = activeAlerts();
  badge.hidden = alerts.length === 0;
  const said = h('span', {class: 'visually-hidden'}, t('nav.problems', {n: alerts.length}));
  replace(badge, h('span', {'aria-hidden': 'true'}, alerts.length), said);
  const fresh = knownAlerts === null ? null : alerts.find((alert) => !knownAlerts.has(alert.id));
  if (fresh) announce(t('alerts.new', {message: fresh.message}));
  knownAlerts = store.connected ? new Set(alerts.map((alert) => alert.id)) : null;
}

/** Says aloud when the available capacity becomes more or less reliable. */
function announceQuality() {
  const quality = store.load?.quality ?? null;
  if (lastQuality !== null && quality !== null && quality !== lastQuality) {
    const available = withUnit(allowance(store.load.availableCapacity), 'kW');
    announce(t('overview.announce', {quality: t(`quality.${quality}`), power: available}));
  }
  lastQuality = quality;
}

function follow(changes) {
  showConnection();
  if (changes.alerts) showAlerts();
  if (changes.load) announceQuality();
}

// --- Pages ---

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
  const path = NAV_OF[name] ?? name;
  for (const [of, link] of links) {
    if (of === path) link.setAttribute('aria-current', 'page');
    else link.removeAttribute('aria-current');
  }
  const patience = setTimeout(() => replace(main, spinner()), current ? PATIENCE_MS : 0);
  const page = await makePage(name, params);
  clearTimeout(patience);
  if (turn === turns) put(page);
  else page.destroy?.();
}

async function makePage(name, params) {
  try {
    if (needsLogin()) return (await import('./login.js')).page();
    if (!Object.hasOwn(PAGES, name)) return notFound();
    return (await PAGES[name](params)).page(params);
  } catch (error) {
    console.error(error);
    return notLoaded();
  }
}

function put(page) {
  const moved = current !== null;
  current?.destroy?.();
  current = page;
  replace(main, page.node);
  setTitle(page.title);
  if (moved && !main.contains(document.activeElement)) main.focus({preventScroll: true});
  if (moved) scrollTo(0, 0);
}

function setTitle(title) {
  document.title = [title, site.textContent].filter(Boolean).join(' · ');
}

function notFound() {
  return {node: empty(t('app.notFound'), h('a', {class: 'button', href: '#/'}, t('app.toOverview'))), title: ''};
}

/** A module cannot be loaded again under its name once it failed: only a new page helps. */
function notLoaded() {
  const reload = h('button', {class: 'button small', type: 'button', onclick: () => location.reload()}, t('app.reload'));
  return {node: note('critical', h('p', null, t('app.pageFailed')), reload), title: ''};
}

/** So that the other pages open at once, and also while the service is away. */
function loadAhead() {
  for (const load of [...Object.values(PAGES), PAGES.meters.bind(null, ['any'])]) load([]).catch(() => {});
  import('./login.js').catch(() => {});
}

// --- Start ---

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
    const system = await get('/api/system');
    setText(site, system.site.name);
    if (current) setTitle(current.title);
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
