/** What can be done to a meter: edit and delete; for readers they say why they cannot. */

import {isAdmin, remove} from './api.js';
import {h, replace} from './dom.js';
import {busy, failed, icon} from './parts.js';
import {t} from './text.js';

/** Text that stands where a reader's way ends: what is needed to go on. */
export function readerNote() {
  return h('p', {class: 'muted'}, t('meters.readerNote'));
}

/** A link that is shown to administrators as such, and to readers as a disabled button. */
export function adminLink(href, iconName, text, {label = null, class: extra = ''} = {}) {
  const className = `button ${extra}`;
  if (isAdmin()) return h('a', {class: className, href, 'aria-label': label}, icon(iconName), text);
  return h('button', {...disabled(), type: 'button', class: className, 'aria-label': label}, icon(iconName), text);
}

/** Edit and delete of a meter. meter: with id and name. onRemoved(): called once it is gone. */
export function meterActions(meter, onRemoved) {
  const {id, name} = meter;
  const small = {class: 'small'};
  return h('div', {class: 'row'},
    adminLink(`#/edit/${id}`, 'edit', t('meters.edit'), {...small, label: t('meters.editNamed', {name})}),
    h('button', {
      ...(isAdmin() ? {} : disabled()), type: 'button', class: `button small ${isAdmin() ? 'danger' : ''}`,
      'aria-label': t('meters.deleteNamed', {name}),
      onclick: async () => (await confirmRemoval(id, name)) && onRemoved(),
    }, icon('delete'), t('meters.delete')));
}

function disabled() {
  return {disabled: true, title: t('meters.readerNote')};
}

/** Asks whether to delete a meter and does it; gives whether it is gone. */
function confirmRemoval(id, name) {
  const trouble = h('div');
  const go = h('button', {type: 'button', class: 'button danger', onclick: () => busy(go, run)}, t('meters.deleteConfirm'));
  const stay = h('button', {type: 'button', class: 'button', autofocus: true, onclick: () => dialog.close()}, t('form.cancel'));
  const dialog = h('dialog', {class: 'dialog card', 'aria-labelledby': 'dialog-title'},
    h('h2', {id: 'dialog-title'}, t('meters.deleteTitle', {name})),
    h('p', null, t('meters.deleteWhat')),
    h('p', null, t('meters.deleteStays')),
    trouble,
    h('div', {class: 'row'}, stay, go));
  async function run() {
    try {
      await remove(`/api/energy-meters/${encodeURIComponent(id)}`);
      dialog.close('removed');
    } catch (error) {
      if (error.code === 'METER_NOT_FOUND') dialog.close('removed');
      else replace(trouble, failed(error, () => busy(go, run)));
    }
  }
  document.body.append(dialog);
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener('close', () => {
      dialog.remove();
      resolve(dialog.returnValue === 'removed');
    });
  });
}
