// The field at the bottom: text, pictures, switches.

import { byId, el, iconButton, say, toast } from "./dom.js";
import { pictureUrl, picturesIn } from "./pictures.js";
import { changeSettings, getSettings } from "./store.js";

const HIGHEST = 260; // pixels of the text field

/** The composer; there is one. */
export class Composer {
  /**
   * @param {Object} actions
   * @param {function(string, Array<string>)} actions.send text and pictures
   * @param {function()} actions.stop
   * @param {function()} actions.editLast
   * @param {function()} actions.switched a switch was turned
   */
  constructor(actions) {
    this.actions = actions;
    this.field = byId("text");
    this.pictures = [];
    this.busy = false;
    byId("composer").addEventListener("submit", (event) => this.#submit(event));
    byId("stop").addEventListener("click", actions.stop);
    this.field.addEventListener("input", () => this.#fit());
    this.field.addEventListener("keydown", (event) => this.#key(event));
    this.#takePictures();
    for (const name of ["thinking", "colours", "compare"]) this.#switch(name);
  }

  /** Whether an answer is under way: then there is a button to stop it, and none to send. */
  setBusy(busy) {
    const focused = [byId("send"), byId("stop")].includes(document.activeElement);
    this.busy = busy;
    byId("stop").hidden = !busy;
    byId("send").hidden = busy;
    if (focused) this.field.focus();
  }

  /** Offer what a model can do: whether it takes pictures, thinks, has drafts. */
  offer({ pictures, thinking, drafts }) {
    byId("attach").hidden = !pictures;
    byId("thinking").hidden = !thinking;
    byId("colours").hidden = byId("compare").hidden = !drafts;
  }

  /** Put text into the field. */
  write(text) {
    this.field.value = text;
    this.#fit();
    this.field.focus();
  }

  /** Turn a switch, and say so. */
  toggle(name) {
    byId(name).click();
    say(`${byId(name).textContent.trim()} ${getSettings()[name] ? "on" : "off"}`);
  }

  #submit(event) {
    event.preventDefault();
    const text = this.field.value.trim();
    if (this.busy || (!text && !this.pictures.length)) return;
    const pictures = this.pictures;
    this.pictures = [];
    this.#showPictures();
    this.write("");
    this.actions.send(text, pictures);
  }

  #key(event) {
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
      event.preventDefault();
      byId("composer").requestSubmit();
    } else if (event.key === "ArrowUp" && !this.field.value && !this.busy) {
      event.preventDefault();
      this.actions.editLast();
    }
  }

  #fit() {
    this.field.style.height = "auto";
    this.field.style.height = `${Math.min(this.field.scrollHeight, HIGHEST)}px`;
  }

  #switch(name) {
    const button = byId(name);
    const show = () => button.setAttribute("aria-pressed", String(getSettings()[name]));
    button.addEventListener("click", () => {
      changeSettings({ [name]: !getSettings()[name] });
      show();
      this.actions.switched();
    });
    show();
  }

  #takePictures() {
    const file = byId("file");
    byId("attach").addEventListener("click", () => file.click());
    file.addEventListener("change", () => {
      this.#add(file.files);
      file.value = "";
    });
    this.field.addEventListener("paste", (event) => {
      if (!picturesIn(event.clipboardData.files).length) return;
      event.preventDefault();
      this.#add(event.clipboardData.files);
    });
    const over = (event) => {
      if (!event.dataTransfer?.types.includes("Files")) return;
      event.preventDefault();
      document.body.classList.toggle("dropping", event.type === "dragover");
    };
    for (const type of ["dragover", "dragleave", "drop"]) document.addEventListener(type, over);
    document.addEventListener("drop", (event) => this.#add(event.dataTransfer?.files ?? []));
  }

  async #add(files) {
    const pictures = picturesIn(files);
    if (byId("attach").hidden && files.length) {
      toast("This model takes no pictures.");
      return;
    }
    if (files.length && !pictures.length) toast("Only pictures can be added.");
    for (const picture of pictures) {
      try {
        this.pictures.push(await pictureUrl(picture));
      } catch (error) {
        toast(error.message);
      }
    }
    this.#showPictures();
    if (pictures.length) say(`${this.pictures.length} pictures to send`);
  }

  #showPictures() {
    const list = byId("pictures");
    list.hidden = !this.pictures.length;
    list.replaceChildren(
      ...this.pictures.map((url, i) => {
        const remove = iconButton("close", `Remove picture ${i + 1}`, () => this.#remove(url));
        return el("li", {}, el("img", { src: url, alt: `Picture ${i + 1} to send` }), remove);
      }),
    );
  }

  #remove(url) {
    this.pictures = this.pictures.filter((other) => other !== url);
    this.#showPictures();
    this.field.focus();
  }
}
