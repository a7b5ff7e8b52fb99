"""The data that a package is judged by: read as is asked for, else as the package's own were, else as they are."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from lensmount.errors import InvalidInputError
from lensmount_adapters.manifest import Manifest
from lensmount_training.data.formats import ListingOptions, list_pictures
from lensmount_training.data.listing import Listing
from lensmount_training.recipe import RECIPE, listing_options, parse_recipe


@dataclass(frozen=True)
class Reading:
    """What is asked for; None is left to the package's recipe and to the data. See `ListingOptions`."""

    format: str | None = None
    group_by: str | None = None
    every: float | None = None
    margin: float | None = None


AS_TRAINED = Reading()


def listed(data: Path, asked: Reading, manifest: Manifest) -> Listing:
    """List data whose labels the package knows.

    Where it was trained on data in another form, or grouped by names that are not here, the form is found out, and
    the pictures are not grouped: nothing is parted by groups here. Raises InvalidInputError for data that can not be
    read in any of these ways, and for labels that the package does not know.
    """
    strangers: list[InvalidInputError] = []
    unread: list[InvalidInputError] = []
    for options in _ways(asked, manifest):
        try:
            listing = list_pictures(data, options, several=False)
        except InvalidInputError as error:
            unread.append(error)
            continue
        try:
            check_labels(listing, manifest)
        except InvalidInputError as error:
            strangers.append(error)
            continue
        return listing
    raise strangers[0] if strangers else unread[-1]


def check_labels(listing: Listing, manifest: Manifest) -> None:
    """Raise InvalidInputError for labels that the package does not know, or several a picture where it takes one."""
    unknown = [label for label in listing.labels if label not in manifest.labels]
    if unknown:
        shown = ", ".join(unknown[:8]) + (", …" if len(unknown) > 8 else "")
        fix = f"rename them to labels of the package ({', '.join(manifest.labels[:8])}), or leave them out"
        raise InvalidInputError("labels that the package does not know", field="data", value=shown, fix=fix)
    if listing.kind == "multi_label" and manifest.kind == "single_label":
        message, fix = (
            "the data has any number of labels a picture, the package tells one",
            "give data of one label each",
        )
        raise InvalidInputError(message, field="data", value=listing.folder, fix=fix)


def _ways(asked: Reading, manifest: Manifest) -> Iterator[ListingOptions]:
    """As the recipe says, then without its grouping, then without its format; what is asked for stands in each."""
    recipe = manifest.provenance.settings.get(RECIPE)
    own = listing_options(parse_recipe(str(recipe))) if recipe else ListingOptions()
    given = {name: value for name, value in asdict(asked).items() if value is not None}
    yield replace(own, **given)
    if own.group_by:
        yield replace(own, **{"group_by": None, **given})
    if own.format:
        yield replace(own, **{"group_by": None, "format": None, **given})
