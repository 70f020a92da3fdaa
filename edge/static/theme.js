/** Sets the theme before the first paint: the chosen one, else the device's. */

(() => {
	const dark = matchMedia('(prefers-color-scheme: dark)');

	function chosen() {
		try {
			return localStorage.getItem('theme');
		} catch {
			return null;
		}
	}

	function apply() {
		document.documentElement.dataset.theme = chosen() ?? (dark.matches ? 'dark' : 'light');
	}

	apply();
	dark.addEventListener('change', apply);
	addEventListener('storage', apply);
	addEventListener('theme', apply);
})();
