"use strict";
// Fetches the page every second and updates its parts that have data-live.
const page = location.origin + location.pathname; // without the password in the address: fetch refuses addresses with one
const [live, stale, notice] = ["live", "stale", "notice"].map(id => document.getElementById(id));
live.hidden = false;
localize(document);

let timer, quiet = 0;
async function refresh() {
	if (!held()) notice.classList.remove("over");
	if (live.firstChild.checked) {
		try {
			show(await load({}));
		} catch {
			document.title = "no answer · foreman";
			if (!held()) stale.hidden = false;
		}
	}
	clearTimeout(timer);
	timer = setTimeout(refresh, document.hidden ? 5000 : 1000); // in the background the title lives
}
addEventListener("visibilitychange", () => document.hidden || refresh());

async function load(request) {
	const answer = await fetch(page, { cache: "no-store", signal: AbortSignal.timeout(5000), ...request });
	const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
	if (!fresh.getElementById("notice")) throw new Error("this is not the page");
	localize(fresh);
	return fresh;
}

// Nobody shall stop another chat than they see. So nothing moves while the pointer is on
// a button, nor for a second after one was pressed: a second press would meet the next
// chat's button. The part of a button that has the focus stays as it is.
function show(fresh) {
	document.title = fresh.title;
	if (held()) return;
	stale.hidden = true;
	for (const part of fresh.querySelectorAll("[data-live]")) {
		const old = document.getElementById(part.id);
		if (!old.querySelector("button:focus")) update(old, part);
	}
}
function held() { return Date.now() < quiet || matchMedia("(hover)").matches && document.querySelector("button:hover"); }

// A button does what it says without loading the page anew.
addEventListener("submit", async event => {
	event.preventDefault();
	const button = event.target.querySelector("button"), body = new URLSearchParams(new FormData(event.target));
	button.disabled = true;
	quiet = Date.now() + 1000;
	notice.classList.add("over");
	try {
		const fresh = await load({ method: "POST", body });
		notice.textContent = fresh.getElementById("notice").textContent || button.ariaLabel.replace(/^Stop/, "Stopp").replace(/e? /, "ed ");
	} catch {
		notice.textContent = `foreman did not answer. Perhaps it did not ${button.textContent.toLowerCase()}.`;
		button.disabled = false;
	}
	notice.focus({ preventScroll: true });
});

// Times are those of the browser.
function localize(root) {
	for (const time of root.querySelectorAll("time")) time.textContent = new Date(time.dateTime).toLocaleTimeString();
}

// Makes node equal to fresh and leaves equal nodes alone, so that updates keep a
// selection and screen readers read only what has changed. A node with a key never
// becomes one with another key, and details stay as open as they are.
function update(node, fresh) {
	if (node.isEqualNode(fresh)) return;
	if (node.nodeType === Node.TEXT_NODE) return void (node.data = fresh.data);
	for (const { name } of [...node.attributes]) if (!fresh.hasAttribute(name) && name !== "open") node.removeAttribute(name);
	for (const { name, value } of fresh.attributes) if (node.getAttribute(name) !== value) node.setAttribute(name, value);
	const old = [...node.childNodes];
	const wanted = [...fresh.childNodes].map(child => {
		const i = old.findIndex(o => o.nodeName === child.nodeName && key(o) === key(child));
		if (i < 0) return child;
		update(old[i], child);
		return old.splice(i, 1)[0];
	});
	for (const child of old) child.remove();
	wanted.forEach((child, i) => child === node.childNodes[i] || node.insertBefore(child, node.childNodes[i] ?? null));
}
function key(node) { return node.id || node.dataset?.key; }
timer = setTimeout(refresh, 1000);
