// The page's switches: curves that can be hidden, and diffs side by side.
"use strict";

for (const part of document.querySelectorAll("[data-script]")) part.hidden = false;

for (const box of document.querySelectorAll("[data-curve]"))
  box.addEventListener("change", () => {
    document.getElementById(box.dataset.curve).style.display = box.checked ? "" : "none";
  });

const sides = document.querySelectorAll(".sides");
for (const button of sides)
  button.addEventListener("click", () => {
    const before = button.getBoundingClientRect().top;
    const both = document.body.classList.toggle("both");
    for (const each of sides) each.setAttribute("aria-pressed", both);
    scrollBy({ top: button.getBoundingClientRect().top - before, behavior: "instant" });
  });

if (document.getElementById("models")) startPlaying(JSON.parse(document.getElementById("models").textContent));
