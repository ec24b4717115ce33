"""The page of labelled photos: what a browser would find on it."""

from html.parser import HTMLParser
from urllib.parse import unquote

from wsss.apply.label_page import write_page


class Page(HTMLParser):
    def __init__(self, path):
        super().__init__()
        self.links, self.images, self.text, self.tags = [], [], "", set()
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        given = dict(attrs)
        self.links += [unquote(given["href"])] if "href" in given else []
        self.images += [unquote(given["src"])] if "src" in given else []

    def handle_data(self, data):
        self.text += data


def test_a_page_shows_each_photo_and_its_tags_and_leads_to_its_files(tmp_path):
    ids = ["été/a b", "c%20#d"]
    path = write_page(tmp_path, ids, tags={ids[0]: ["cat", "dog"]}, about="2 photos")
    page = Page(path)
    assert path == tmp_path / "index.html"
    assert page.images == [f"overlays/{photo_id}.jpg" for photo_id in ids]
    assert {f"labels/{photo_id}.png" for photo_id in ids} < set(page.links)
    assert "été/a b: cat, dog" in page.text and "c%20#d: no tags" in page.text
    assert "2 photos" in page.text


def test_names_are_text_and_never_run(tmp_path):
    name = "<img src=x onerror=alert(1)>"
    page = Page(write_page(tmp_path, [name], tags={name: [name, "$title"]}, about=name))
    assert page.text.count(name) == 3 and "$title" in page.text
    assert page.images == [f"overlays/{name}.jpg"]
