// Is called in the page and returns what keeps people from reading or using it:
// https://www.w3.org/TR/WCAG22/.
scheme => {
	const found = [], $ = selector => [...document.querySelectorAll(selector)];
	const must = (ok, what) => { if (!ok) found.push(what) };
	const show = e => e.outerHTML.replace(/\s+/g, " ").slice(0, 120);

	// Structure.
	must(document.documentElement.lang === "en", "no language");
	must(/(^| · )foreman$/.test(document.title), "the title is " + document.title);
	for (const one of ["body > header", "main", "body > footer", "h1"]) must($(one).length === 1, $(one).length + " of " + one);
	let level = 0;
	for (const h of $("h1, h2, h3, h4, h5, h6")) {
		must(+h.tagName[1] <= level + 1, "a heading is left out before " + show(h));
		level = +h.tagName[1];
	}
	for (const e of $("[aria-labelledby]")) must(document.getElementById(e.getAttribute("aria-labelledby"))?.textContent, "no label: " + show(e));
	must($("section").length === 7 && $("section").every(e => e.hasAttribute("aria-labelledby")), "a section has no name");
	must($("table").every(e => e.matches("[aria-label], [aria-labelledby]")), "a table has no name");
	must($("th").every(e => ["col", "row"].includes(e.scope)), "a table's header has no scope");
	must($("svg").every(e => e.getAttribute("aria-hidden") === "true"), "a drawing is read out");
	must(new Set($("[id]").map(e => e.id)).size === $("[id]").length, "an id stands twice");
	must($("[tabindex]").every(e => e.tabIndex <= 0), "an order of focus of its own");
	must($("#host[role=status], #notice[role=status], #stale[role=alert]").length === 3, "changes are not read out");
	const names = $("button").map(e => e.getAttribute("aria-label") ?? "");
	must($("select, input:not([type=hidden])").every(e => e.labels.length === 1 && e.labels[0].textContent.trim()), "a field has no label");
	must(names.every(name => /^(Stop (the chat of \S+ with \S+, (which is running|number \d+ in line)|all \d+ chats of \S+ that wait)|(Pause|Resume) foreman)$/.test(name)), "buttons are called " + names);
	must(new Set(names).size === names.length, "two buttons have one name: " + names);
	must($("form").every(e => e.method === "post" && !e.hasAttribute("action") && e.querySelectorAll("button").length === 1), "a form is not as it should be");

	// Each cell is read out under its own header, at any width.
	const read = e => e.checkVisibility({ visibilityProperty: true });
	for (const row of $("tbody tr")) {
		const wide = list => [...list].filter(read).reduce((sum, cell) => sum + cell.colSpan, 0);
		const cells = wide(row.cells), headers = wide(row.closest("table").tHead.rows[0].cells);
		must(cells === headers, cells + " cells are read out of " + headers + ": " + show(row));
	}

	// Everything is in sight: inside of the window and of its section, whole, and not under something else.
	const width = document.documentElement.clientWidth;
	must(document.documentElement.scrollWidth <= width, "the page scrolls sideways: " + document.documentElement.scrollWidth + " > " + width);
	const inSight = e => e.checkVisibility({ visibilityProperty: true }) && !e.closest("svg *") &&
		![e.closest("thead"), e.closest("td")].some(e => e && getComputedStyle(e).clipPath !== "none"); // these are read out only
	const boxes = [];
	for (const e of $("body *")) {
		if (!inSight(e)) continue;
		must(e.scrollWidth <= e.clientWidth + 1 || e.clientWidth === 0 || getComputedStyle(e).display === "inline", "cut off: " + show(e));
		const texts = [...e.childNodes].filter(n => n.nodeType === Node.TEXT_NODE && n.data.trim());
		const rects = e.matches("button, select, input, svg, .key") ? [e.getBoundingClientRect()] : texts.flatMap(text => {
			const range = document.createRange();
			range.selectNodeContents(text);
			return [...range.getClientRects()];
		});
		for (const rect of rects) if (rect.width > 1) boxes.push({ e, rect });
	}
	for (const { e, rect } of boxes) {
		const frame = e.closest("section, body"), style = getComputedStyle(frame), outer = frame.getBoundingClientRect();
		must(rect.left >= outer.left + parseFloat(style.paddingLeft) - 1 && rect.right <= outer.right - parseFloat(style.paddingRight) + 1, "beyond the edge: " + show(e));
	}
	boxes.forEach((a, i) => boxes.slice(i + 1).forEach(b => {
		if (a.e.contains(b.e) || b.e.contains(a.e)) return;
		const over = (from, to) => Math.min(a.rect[to], b.rect[to]) - Math.max(a.rect[from], b.rect[from]);
		// Boxes of text have room above and below the letters.
		must(over("left", "right") <= 1 || over("top", "bottom") <= 3, "one on the other: " + show(a.e) + " and " + show(b.e));
	}));
	for (const e of $("button, select, input[type=checkbox], summary")) {
		const target = (e.closest("label") ?? e).getBoundingClientRect();
		must(!inSight(e) || target.width >= 24 && (target.height >= 24 || e.matches("summary")), "too small to hit: " + show(e));
	}

	// Contrast of all text, of the bars and of what can be pressed.
	const paint = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
	const rgba = color => { paint.clearRect(0, 0, 1, 1); paint.fillStyle = color; paint.fillRect(0, 0, 1, 1); return [...paint.getImageData(0, 0, 1, 1).data] };
	const ground = e => { for (; e; e = e.parentElement) if (rgba(getComputedStyle(e).backgroundColor)[3] === 255) return rgba(getComputedStyle(e).backgroundColor); return [255, 255, 255, 255] };
	const linear = v => (v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
	const luminance = rgb => { const [r, g, b] = rgb.map(linear); return 0.2126 * r + 0.7152 * g + 0.0722 * b };
	const contrast = (a, b) => { const [light, dark] = [luminance(a), luminance(b)].sort((a, b) => b - a); return (light + 0.05) / (dark + 0.05) };
	const opacity = e => { let o = 1; for (; e; e = e.parentElement) o *= getComputedStyle(e).opacity; return o };
	const page = ground(document.body), faint = (color, e) => color.map((v, i) => v * opacity(e) + page[i] * (1 - opacity(e)));
	let seen = 0;
	const text = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
	while (text.nextNode()) {
		const e = text.currentNode.parentElement;
		if (!text.currentNode.data.trim() || !e.checkVisibility()) continue;
		const style = getComputedStyle(e), size = parseFloat(style.fontSize);
		const least = size >= 24 || size >= 18.66 && style.fontWeight >= 700 ? 3 : 4.5;
		const ratio = contrast(faint(rgba(style.color), e), faint(ground(e), e));
		must(ratio >= least, "contrast " + ratio.toFixed(1) + ": " + show(e));
		seen++;
	}
	must(seen > 25, "only " + seen + " texts");
	must(scheme === "dark" === luminance(page) < 0.1, "the wrong scheme");
	for (const e of $("rect, path")) {
		const ratio = contrast(rgba(getComputedStyle(e).fill), ground(e.closest("svg")));
		must(ratio >= 3, "contrast " + ratio.toFixed(1) + ": " + show(e));
	}
	for (const e of $(".key")) must(contrast(rgba(getComputedStyle(e).backgroundColor), ground(e.parentElement)) >= 3, "contrast: " + show(e));
	for (const e of $("button, select")) must(contrast(rgba(getComputedStyle(e).borderTopColor), ground(e)) >= 3, "contrast of the border: " + show(e));

	// The parts of bars as people see them who lack a kind of cones (Machado, Oliveira
	// and Fernandes 2009): their distance in CIELAB. About 2 is just seen.
	const sights = [
		[[1, 0, 0], [0, 1, 0], [0, 0, 1]],
		[[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
		[[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.01182, 0.04294, 0.968881]],
		[[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.3039]],
	];
	const lab = ([r, g, b]) => {
		const f = t => t > 0.008856 ? Math.cbrt(t) : 7.787 * t + 16 / 116;
		const x = f((0.4124 * r + 0.3576 * g + 0.1805 * b) / 0.95047), y = f(0.2126 * r + 0.7152 * g + 0.0722 * b), z = f((0.0193 * r + 0.1192 * g + 0.9505 * b) / 1.08883);
		return [116 * y - 16, 500 * (x - y), 200 * (y - z)];
	};
	const keys = $(".key");
	must(keys.length === ($("#chats table").length > 0 ? 7 : 0), keys.length + " parts in the legend");
	for (const sight of sights) {
		const colors = keys.map(e => {
			const color = rgba(getComputedStyle(e).backgroundColor).slice(0, 3).map(linear);
			return lab(sight.map(row => Math.min(Math.max(row.reduce((sum, v, i) => sum + v * color[i], 0), 0), 1)));
		});
		colors.forEach((a, i) => colors.slice(i + 1).forEach((b, j) => {
			const distance = Math.hypot(...a.map((v, k) => v - b[k]));
			must(distance >= 20, keys[i].className + " looks like " + keys[i + 1 + j].className + " to some: " + distance.toFixed(0));
		}));
	}
	return found;
}
