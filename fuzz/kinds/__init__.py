"""All kinds, by name."""

from __future__ import annotations

from collections.abc import Mapping

from fuzz.kind import Kind
from fuzz.kinds.commands import Commands
from fuzz.kinds.documents import Records, Requests, Stored, VBench
from fuzz.kinds.files import Names
from fuzz.kinds.models import Adapters, Folders, Pickles, SafetensorsFiles
from fuzz.kinds.pictures import Images, Videos
from fuzz.kinds.texts import Prompts, Specs, Values

KINDS: Mapping[str, type[Kind]] = {
    kind.name: kind
    for kind in (
        Specs,
        Values,
        Prompts,
        Records,
        Requests,
        Stored,
        VBench,
        Names,
        SafetensorsFiles,
        Pickles,
        Adapters,
        Folders,
        Videos,
        Images,
        Commands,
    )
}
