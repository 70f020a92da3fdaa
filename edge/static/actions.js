/** What can be done to a meter: edit and delete. */

import {isAdmin, meterPath, remove} from './api.js';
import {h, replace} from './dom.js';
import {busy, button, failed, icon} from './parts.js';
import {t} from './text.js';

export function readerNote() {
	return !isAdmin() && h('p.muted', t('meters.readerNote'));
}

/** A link to where something is changed; a disabled button for readers. */
export function adminLink(href, name, text, props = {}) {
	return isAdmin() ? h('a.button', {href, ...props}, icon(name), text) : button(text, null, {icon: name, disabled: true, ...props});
}

/** Edit and delete of a meter. onRemoved(): called once it is gone. */
export function meterActions({id, name}, onRemoved) {
	const ask = async () => (await confirmRemoval(id, name)) && onRemoved?.();
	return h('div.row',
		adminLink(`#/edit/${id}`, 'edit', t('meters.edit'), {class: 'small', 'aria-label': t('meters.editNamed', {name})}),
		button(t('meters.delete'), ask, {
			icon: 'delete', class: 'small danger', disabled: !isAdmin(), 'aria-label': t('meters.deleteNamed', {name}),
		}));
}

function confirmRemoval(id, name) {
	const trouble = h('div');
	const run = () => busy(go, async () => {
		try {
			await remove(meterPath(id));
			dialog.close('removed');
		} catch (error) {
			if (error.code === 'METER_NOT_FOUND') dialog.close('removed');
			else replace(trouble, failed(error, run));
		}
	});
	const go = button(t('meters.deleteConfirm'), run, {class: 'danger'});
	const stay = button(t('form.cancel'), () => dialog.close(), {autofocus: true});
	const dialog = h('dialog.card', {'aria-labelledby': 'dialog-title'},
		h('h2', {id: 'dialog-title'}, t('meters.deleteTitle', {name})),
		h('p', t('meters.deleteWhat')), h('p', t('meters.deleteStays')), trouble, h('div.row', stay, go));
	document.body.append(dialog);
	dialog.showModal();
	return new Promise((resolve) => {
		dialog.addEventListener('close', () => {
			dialog.remove();
			resolve(dialog.returnValue === 'removed');
		});
	});
}
