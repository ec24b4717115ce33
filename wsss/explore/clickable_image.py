"""A picture that can be clicked on, for the panel of the explore notebook."""

import anywidget
import traitlets


class ClickableImage(anywidget.AnyWidget):
    """A PNG that tells where it was clicked: (x, y) as shares of its width and height."""

    _esm = """
    function render({ model, el }) {
      const image = document.createElement("img");
      let address;
      const show = () => {
        const old = address;
        address = URL.createObjectURL(new Blob([model.get("value")], { type: "image/png" }));
        image.src = address;
        image.style.width = model.get("width");
        if (old) URL.revokeObjectURL(old);
      };
      image.alt = "The photo; a click chooses a pixel";
      image.draggable = false;
      image.style.display = "block";
      image.style.cursor = "crosshair";
      image.addEventListener("click", (event) => {
        const box = image.getBoundingClientRect();
        model.set("point", [
          (event.clientX - box.left) / box.width,
          (event.clientY - box.top) / box.height,
        ]);
        model.save_changes();
      });
      model.on("change:value change:width", show);
      show();
      el.append(image);
      return () => {
        model.off("change:value change:width", show);
        URL.revokeObjectURL(address);
      };
    }
    export default { render };
    """
    value = traitlets.Bytes(b"").tag(sync=True)
    width = traitlets.Unicode("").tag(sync=True)
    point = traitlets.List(traitlets.Float(), default_value=[]).tag(sync=True)
