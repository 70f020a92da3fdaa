/** Numbers, ages and times as people read them. What is not known is "–", never 0. */

import {LOCALE, t} from './text.js';

export const UNKNOWN = '–';

/** Unit of each value field of a reading; the power factor has none. */
export const UNITS = {
	currentPower: 'kW', powerExport: 'kW', powerL1: 'kW', powerL2: 'kW', powerL3: 'kW',
	totalEnergy: 'kWh', energyExport: 'kWh',
	voltage: 'V', voltageL1: 'V', voltageL2: 'V', voltageL3: 'V',
	current: 'A', currentL1: 'A', currentL2: 'A', currentL3: 'A',
	powerFactor: '', frequency: 'Hz', reactivePower: 'kvar', apparentPower: 'kVA',
};

const DIGITS = {kWh: 1, V: 1, A: 2, Hz: 2, '': 3};
const formatsOfNumbers = [];
const minuteFormat = new Intl.DateTimeFormat(LOCALE, {hour: '2-digit', minute: '2-digit'});
const dayFormat = new Intl.DateTimeFormat(LOCALE, {day: 'numeric', month: 'short'});
const fullFormat = new Intl.DateTimeFormat(LOCALE, {dateStyle: 'medium', timeStyle: 'medium'});

/** A number with a fixed count of decimals, "–" for null. */
export function number(value, digits = 0) {
	if (!isKnown(value)) return UNKNOWN;
	const options = {minimumFractionDigits: digits, maximumFractionDigits: digits};
	const text = (formatsOfNumbers[digits] ??= new Intl.NumberFormat(LOCALE, options)).format(value);
	return /[1-9]/.test(text) ? text : text.replace('-', '');
}

export function isKnown(value) {
	return typeof value === 'number' && Number.isFinite(value);
}

/** Power, kW, without its unit. */
export function power(kw) {
	return number(kw, powerDigits(kw));
}

/** Power that may be used, kW, without its unit: rounded down, so that it never promises more. */
export function allowance(kw) {
	if (!isKnown(kw)) return UNKNOWN;
	const digits = powerDigits(kw);
	return number(Math.floor(kw * 10 ** digits + 1e-6) / 10 ** digits, digits);
}

/** A value field of a reading (currentPower, voltageL1…) without its unit. */
export function quantity(name, value) {
	const digits = DIGITS[UNITS[name]];
	return digits === undefined ? power(value) : number(value, digits);
}

export function withUnit(text, unit) {
	return text === UNKNOWN || !unit ? text : `${text} ${unit}`;
}

export function kilowatts(kw) {
	return withUnit(power(kw), 'kW');
}

/** A duration, s, in its one or two largest units: "8 s", "3 min", "2 h 5 min", "4 d 3 h". */
export function duration(seconds) {
	if (!isKnown(seconds)) return UNKNOWN;
	const s = Math.max(0, Math.floor(seconds));
	if (s < 60) return `${s} s`;
	if (s < 3600) return `${Math.floor(s / 60)} min`;
	if (s < 86_400) return twoUnits(Math.floor(s / 60), 60, 'h', 'min');
	return twoUnits(Math.floor(s / 3600), 24, 'd', 'h');
}

/** An age, s: "8 s ago"; below a second and a half "now", unless it is of what is not live. */
export function ago(seconds, live = true) {
	if (!isKnown(seconds)) return t('value.unknown');
	return live && seconds < 1.5 ? t('age.now') : t('age.ago', {duration: duration(seconds)});
}

export function minute(unixMs) {
	return minuteFormat.format(unixMs);
}

export function day(unixMs) {
	return dayFormat.format(unixMs);
}

/** Time of day of unix ms; with the day where it was another one. */
export function time(unixMs) {
	const isToday = new Date(unixMs).toDateString() === new Date().toDateString();
	return isToday ? minute(unixMs) : `${day(unixMs)}, ${minute(unixMs)}`;
}

export function dateTime(unixMs) {
	return isKnown(unixMs) ? fullFormat.format(unixMs) : UNKNOWN;
}

/** Unix ms of an RFC 3339 time of the API, null for null. */
export function parseTime(text) {
	return text && Date.parse(text);
}

export function megabytes(bytes) {
	return withUnit(number(bytes / 1e6, 1), 'MB');
}

function powerDigits(kw) {
	return Math.abs(kw) < 10 ? 2 : 1;
}

function twoUnits(count, per, large, small) {
	const rest = count % per;
	return `${Math.floor(count / per)} ${large}${rest ? ` ${rest} ${small}` : ''}`;
}
