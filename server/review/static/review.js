/* The slice scroller of a case's page; without it the page shows one slice of each plane. */
"use strict";

(() => {
  // A form that makes the server compute says so, and cannot be sent twice.
  for (const form of document.querySelectorAll("form[data-busy]")) {
    form.addEventListener("submit", () => {
      const button = form.querySelector("button");
      button.disabled = true;
      button.textContent = form.dataset.busy;
    });
  }

  const scroller = document.querySelector(".scroller");
  if (!scroller) return;
  const message = scroller.querySelector("[data-message]");
  const planes = [...scroller.querySelectorAll(".plane")].map((figure) => ({
    figure,
    name: figure.dataset.plane,
    slider: figure.querySelector("[data-place]"),
    output: figure.querySelector("output"),
    pictures: [...figure.querySelectorAll("img[data-layer]")],
    profile: null,
    asked: 0,
  }));

  const address = (plane, place, layer) =>
    `${scroller.dataset.slices}/${plane.name}/${place}?layer=${layer}&v=${scroller.dataset.tag}`;

  const load = (source) =>
    new Promise((done, fail) => {
      const picture = new Image();
      picture.onload = () => done(source);
      picture.onerror = () => fail(new Error(source));
      picture.src = source;
    });

  // All layers of a slice change at the same moment: a contour must never lie on another slice's scan.
  async function show(plane) {
    const place = Number(plane.slider.value);
    const number = ++plane.asked;
    plane.output.textContent = `${place + 1} / ${Number(plane.slider.max) + 1}`;
    plane.slider.setAttribute("aria-valuetext", `slice ${place + 1} of ${Number(plane.slider.max) + 1}`);
    try {
      const sources = await Promise.all(
        plane.pictures.map((picture) => load(address(plane, place, picture.dataset.layer))),
      );
      if (number !== plane.asked) return;
      plane.pictures.forEach((picture, index) => { picture.src = sources[index]; });
      plane.figure.dataset.shown = String(place);
      message.hidden = true;
      ahead(plane, place, number);
    } catch (error) {
      if (number !== plane.asked) return;
      message.textContent =
        "This slice could not be loaded. The case may have changed since: reload the page.";
      message.hidden = false;
    }
  }

  // The neighbors, while nothing else is asked for: scrolling then meets the browser's cache.
  async function ahead(plane, place, number) {
    for (const step of [1, -1, 2, -2]) {
      const next = place + step;
      if (next < 0 || next > Number(plane.slider.max)) continue;
      if (number !== plane.asked) return;
      await Promise.allSettled(
        plane.pictures.map((picture) => load(address(plane, next, picture.dataset.layer))),
      );
    }
  }

  function move(plane, place) {
    const before = plane.slider.value;
    plane.slider.value = String(place);
    if (plane.slider.value !== before) show(plane);
  }

  for (const plane of planes) {
    plane.slider.addEventListener("input", () => show(plane));
    plane.figure.querySelector(".stage").addEventListener(
      "wheel",
      (event) => {
        if (event.ctrlKey || event.deltaY === 0) return; // zooming stays the browser's
        event.preventDefault();
        move(plane, Number(plane.slider.value) - Math.sign(event.deltaY));
      },
      { passive: false },
    );
    plane.figure.dataset.shown = plane.slider.value;
  }

  const boxes = new Map(
    [...scroller.querySelectorAll("input[data-layer]")].map((box) => [box.dataset.layer, box]),
  );
  for (const [layer, box] of boxes) {
    const apply = () => {
      for (const picture of scroller.querySelectorAll(`img[data-layer="${layer}"]`)) {
        picture.hidden = !box.checked;
      }
    };
    box.addEventListener("change", apply);
    apply(); // a browser may have kept a box unchecked over a reload
  }
  const strength = scroller.querySelector("[data-strength]");
  if (strength) {
    const apply = () => {
      for (const picture of scroller.querySelectorAll('img[data-layer="uncertainty"]')) {
        picture.style.opacity = String(Number(strength.value) / 100);
      }
    };
    strength.addEventListener("input", apply);
    apply();
  }

  const worst = scroller.querySelector("[data-worst]");
  const jump = () => {
    for (const plane of planes) {
      if (plane.profile) move(plane, plane.profile.indexOf(Math.max(...plane.profile)));
    }
  };
  if (worst) {
    worst.addEventListener("click", jump);
    fetch(scroller.dataset.profiles)
      .then((reply) => (reply.ok ? reply.json() : {}))
      .then((profiles) => {
        for (const plane of planes) {
          if (!profiles[plane.name]) continue;
          plane.profile = profiles[plane.name];
          draw(plane);
        }
      })
      .catch(() => { worst.hidden = true; });
  }

  function draw(plane) {
    const peak = Math.max(...plane.profile, 1e-9);
    const width = 100 / plane.profile.length;
    const steps = plane.profile.map(
      (value, index) =>
        `L${(index * width).toFixed(2)} ${(16 - (15 * value) / peak).toFixed(2)} h${width.toFixed(2)}`,
    );
    const area = document.createElementNS("http://www.w3.org/2000/svg", "path");
    area.setAttribute("d", `M0 16 ${steps.join(" ")} V16 Z`);
    plane.figure.querySelector(".profile").replaceChildren(area);
  }

  const keys = { e: "label", m: "segmentation", u: "uncertainty" };
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const key = event.key.toLowerCase();
    const box = boxes.get(keys[key]);
    if (box && !box.disabled) box.click();
    else if (key === "w" && worst) jump();
    else if (["1", "2", "3"].includes(key)) planes[Number(key) - 1].slider.focus();
    else return;
    event.preventDefault();
  });
})();
