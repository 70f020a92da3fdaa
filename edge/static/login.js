/** The page before all others, where tokens are asked for. The path stays, and is shown afterwards. */

import {login, session} from './api.js';
import {h, setText} from './dom.js';
import {busy, note} from './parts.js';
import {t} from './text.js';

export function page() {
  const token = h('input', {
    id: 'token',
    type: 'password',
    autocomplete: 'current-password',
    'aria-describedby': 'token-hint token-fault',
  });
  const fault = h('p', {class: 'fault', id: 'token-fault', role: 'alert'});
  const button = h('button', {class: 'button primary', type: 'submit'}, t('login.button'));
  const submit = async (event) => {
    event.preventDefault();
    const message = await busy(button, () => attempt(token.value.trim()));
    setText(fault, message);
    token.setAttribute('aria-invalid', String(message !== ''));
    token.focus();
  };
  const label = h('label', {for: 'token'}, t('login.token'));
  const hint = h('p', {class: 'hint', id: 'token-hint'}, t('login.hint'));
  const form = h('form', {onsubmit: submit}, h('div', {class: 'field'}, label, token, fault, hint), button);
  const again = session.name !== null && note('info', t('login.again'));
  const node = h('section', {class: 'card login stack'}, h('h1', null, t('login.title')), again, form);
  return {node, title: t('login.title')};
}

/** Tries a token; gives what is wrong, or '' once logged in. */
async function attempt(token) {
  if (token === '') return t('login.empty');
  try {
    await login(token);
    return '';
  } catch (error) {
    return error.status === 401 ? t('login.wrong') : error.message;
  }
}
