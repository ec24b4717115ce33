function render({ model, el }) {
  const image = document.createElement("img");
  const show = () => {
    URL.revokeObjectURL(image.src);
    image.src = URL.createObjectURL(new Blob([model.get("value")], { type: "image/png" }));
  };
  Object.assign(image, { alt: "The photo; a click chooses a pixel", draggable: false });
  Object.assign(image.style, { display: "block", width: "100%", cursor: "crosshair" });
  image.addEventListener("click", (event) => {
    const box = image.getBoundingClientRect();
    const [x, y] = [event.clientX - box.left, event.clientY - box.top];
    model.set("point", [x / box.width, y / box.height]);
    model.save_changes();
  });
  model.on("change:value", show);
  show();
  el.append(image);
  return () => {
    model.off("change:value", show);
    URL.revokeObjectURL(image.src);
  };
}
export default { render };
