"""Vaults: the recorded steps of one task as one dataset, at `<root>/<family>/<scenario>.vlt/<dataset>`."""

from mtmarl.data.vault.catalogue import (
    SINGLE_POLICIES,
    catalogue,
    default_roots,
    find_vault,
    has_vault,
    list_vaults,
    named_path,
    own_root,
    read_references,
    reference_file,
    sole_collector,
    vault_path,
    write_reference,
)
from mtmarl.data.vault.episodes import Episodes, episodes, returns_to_go_range
from mtmarl.data.vault.manifest import (
    MANIFEST,
    add_once,
    add_vault,
    check_all,
    check_entry,
    check_free,
    fingerprint,
    list_vault,
    manifest_entry,
    parse_manifest,
    read_manifest,
    record,
    update_manifest,
    verify,
    write_manifest,
)
from mtmarl.data.vault.schema import (
    METADATA,
    SCHEMA_VERSION,
    Recording,
    Vault,
    concatenate,
    own_metadata,
    stored_bytes,
)
from mtmarl.data.vault.store import (
    identity,
    locked,
    open_leaf,
    read_metadata,
    read_vault,
    replace_folder,
    to_json,
    write_vault,
)
