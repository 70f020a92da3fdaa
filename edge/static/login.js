/** The page before all others, which asks for a token. The path stays. */

import {login, session} from './api.js';
import {h, setText} from './dom.js';
import {busy, note} from './parts.js';
import {t} from './text.js';

export function page() {
	const token = h('input', {
		id: 'token', type: 'password', autocomplete: 'current-password', 'aria-describedby': 'token-hint token-fault',
	});
	const fault = h('p.fault', {id: 'token-fault', role: 'alert'});
	const go = h('button.button.primary', t('login.title'));
	const submit = async (event) => {
		event.preventDefault();
		const message = await busy(go, () => attempt(token.value.trim()));
		setText(fault, message);
		token.setAttribute('aria-invalid', message !== '');
		token.focus();
	};
	const node = h('section.card.login.stack',
		h('h1', t('login.title')),
		session.name !== null && note('info', t('login.again')),
		h('form.stack', {onsubmit: submit},
			h('div.field', h('label', {for: 'token'}, t('login.token')), token, fault,
				h('p.hint', {id: 'token-hint'}, t('login.hint'))),
			go));
	return {node, title: t('login.title')};
}

async function attempt(token) {
	if (token === '') return t('login.empty');
	try {
		await login(token);
		return '';
	} catch (error) {
		return error.status === 401 ? t('login.wrong') : error.message;
	}
}
