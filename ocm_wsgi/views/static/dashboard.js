// Comfort only: every page is complete without this.
"use strict";

const forms = {
  time: { dateStyle: "medium", timeStyle: "short" },
  weekday: { weekday: "long", hour: "2-digit", minute: "2-digit" },
};

/** Show times in the reader's own time zone. */
function localise(root) {
  for (const element of root.querySelectorAll("time[data-form]")) {
    const options = forms[element.dataset.form];
    if (options) {
      element.title = element.dateTime;
      element.textContent = new Intl.DateTimeFormat(undefined, options).format(new Date(element.dateTime));
    }
  }
}

async function copy(button) {
  const text = document.getElementById(button.dataset.copy);
  try {
    await navigator.clipboard.writeText(text.textContent);
    button.textContent = "Copied";
  } catch {
    // Not over plain HTTP: then it is marked, to be copied by hand.
    window.getSelection().selectAllChildren(text);
    button.textContent = "Marked";
  }
}

/** Fetch what is under way again and again, while somebody looks. */
function keepFresh(element) {
  setInterval(async () => {
    if (document.hidden) return;
    try {
      const response = await fetch(element.dataset.refresh, { redirect: "error" });
      if (response.ok) element.innerHTML = await response.text();
    } catch {
      // The service restarts, or the session has ended: the next click will tell.
    }
  }, 5000);
}

localise(document);
for (const button of document.querySelectorAll("button[data-copy]")) {
  button.hidden = false;
  button.addEventListener("click", () => copy(button));
}
document.querySelectorAll("[data-refresh]").forEach(keepFresh);
