"""Why a snapshot is in its state."""

from core.reasons import register

register(
    {
        "snapshot_begun": "generation {generation} is being taken",
        "snapshot_committed": "the agent uploaded {files} files in {packs} new objects, {stored_bytes} bytes",
        "snapshot_verified": "{packs} packs were found whole and {blocks_read} of {blocks} blocks were read back",
        "snapshot_not_taken": "the agent could not take it: {error}",
        "snapshot_not_whole": "the check found {problems} problems, the first: {first}",
        "snapshot_whole_again": "a later check found all {packs} packs",
        "snapshot_given_up": "what it was taken for was stopped",
        "snapshot_let_go": "let go by {by}",
        "generation_is_damaged": "generation {generation} of {workspace} is damaged in the store: {why}",
    }
)
