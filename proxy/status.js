"use strict";
// Fetches the page again a second after it has come, and replaces the parts that
// have changed.
const page = location.origin + location.pathname; // without the password that the address may have: fetch refuses it
const stale = document.getElementById("stale");

async function refresh() {
	if (!document.hidden) {
		try {
			const answer = await fetch(page, { cache: "no-store", signal: AbortSignal.timeout(5000) });
			if (!answer.ok) throw new Error(answer.statusText);
			const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
			for (const part of fresh.querySelectorAll("[data-live]")) {
				const shown = document.getElementById(part.id);
				if (shown.innerHTML !== part.innerHTML) shown.innerHTML = part.innerHTML;
			}
			stale.hidden = true;
		} catch {
			stale.hidden = false;
		}
	}
	setTimeout(refresh, 1000);
}
setTimeout(refresh, 1000);
