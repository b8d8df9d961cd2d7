"use strict";
// Fetch what changes while a run goes on, or while it is still being counted, and put it in place.
(() => {
  const place = document.getElementById("live");
  const button = document.getElementById("pause");
  const said = document.getElementById("said");
  if (!place || !button) return;
  const began = place.querySelector("#live-state").dataset.running;
  let paused = false;
  let unchanged = 0;
  let failures = 0;

  const wait = () => {
    const asked = place.querySelector("#live-state")?.dataset.wait;
    return asked === undefined ? null : Number(asked) * Math.min(1 + Math.max(unchanged, failures) / 3, 8);
  };

  const opened = () => [...place.querySelectorAll("details[open][id]")].map((one) => one.id);

  const put = (html) => {
    const before = place.querySelector("#live-state").dataset;
    const [decided, waited] = [before.decided, before.wait];
    const open = opened();
    const focused = place.contains(document.activeElement) ? document.activeElement : null;
    const summary = focused?.closest("details[id]")?.id;
    place.innerHTML = html;
    for (const id of open) document.getElementById(id)?.setAttribute("open", "");
    if (summary) document.getElementById(summary)?.querySelector("summary")?.focus({ preventScroll: true });
    const after = place.querySelector("#live-state").dataset;
    unchanged = after.decided === decided && after.wait === waited && waited !== "250" ? unchanged + 1 : 0;
    // The rest of the page tells the status too, and shows what only a run that ended has.
    if (after.running !== began) location.reload();
  };

  const tick = async () => {
    if (!paused && !document.hidden) {
      try {
        const signal = AbortSignal.timeout(30_000);
        const answer = await fetch(place.dataset.url, { headers: { Accept: "text/html" }, signal });
        if (!answer.ok) throw new Error(answer.statusText);
        put(await answer.text());
        failures = 0;
        said.textContent = "";
      } catch {
        failures += 1;
        said.textContent = "mdap serve does not answer; trying again.";
      }
    }
    again();
  };

  const again = () => {
    const pause = wait();
    if (pause !== null) setTimeout(tick, pause);
    else document.getElementById("updates").hidden = true;
  };

  button.addEventListener("click", () => {
    paused = !paused;
    button.setAttribute("aria-pressed", String(paused));
    said.textContent = paused ? "Paused." : "";
  });
  document.getElementById("updates").hidden = false;
  again();
})();
