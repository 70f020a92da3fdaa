/** What a page asks the service for again and again, and how that looks while it fails. */

import {h, replace} from './dom.js';
import {store} from './live.js';
import {failed, spinner} from './parts.js';

/**
 * Keeps `content` up to date by `await load()`: now, and everyMs after each end, but not while the
 * page is hidden, and until `leaving`, an AbortSignal. Gives {node, again()}.
 *
 * Waiting and failures are shown above the content; what is there then stays, and looks old. Of a
 * lost connection the banner tells.
 */
export function upToDate(content, load, everyMs, leaving) {
	const state = h('div', spinner());
	let said;
	let running = false;
	let timer = 0;
	content.hidden = true;

	async function again() {
		clearTimeout(timer);
		if (running || leaving.aborted || document.hidden) return;
		running = true;
		try {
			await load();
			content.hidden = false;
			say(null);
		} catch (error) {
			say(store.connected || content.hidden ? error.message : null);
			content.classList.add('stale');
		}
		running = false;
		if (!leaving.aborted) timer = setTimeout(again, everyMs);
	}

	function say(message) {
		content.classList.remove('stale');
		// The same failure again leaves its button and the focus alone.
		if (message !== said) replace(state, message && failed({message}, again));
		said = message;
	}

	document.addEventListener('visibilitychange', again, {signal: leaving});
	leaving.addEventListener('abort', () => clearTimeout(timer));
	again();
	return {node: h('div', state, content), again};
}
