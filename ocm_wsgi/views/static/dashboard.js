// Enhancements only: every page is complete without JavaScript.
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
    // The clipboard is unavailable over plain HTTP: select the text, to be copied by hand.
    window.getSelection().selectAllChildren(text);
    button.textContent = "Selected";
  }
}

/** Refresh the list of requests in progress while the page is visible. */
function autoRefresh(element) {
  setInterval(async () => {
    if (document.hidden) return;
    try {
      const response = await fetch(element.dataset.refresh, { redirect: "error" });
      if (response.ok) element.innerHTML = await response.text();
    } catch {
      // The service is restarting, or the session has ended: the next click will show it.
    }
  }, 5000);
}

localise(document);
for (const button of document.querySelectorAll("button[data-copy]")) {
  button.hidden = false;
  button.addEventListener("click", () => copy(button));
}
document.querySelectorAll("[data-refresh]").forEach(autoRefresh);
