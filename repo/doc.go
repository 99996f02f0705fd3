// Package repo composes the store column into a repository: it makes and opens one, writes chunks to it in sessions,
// finds and opens chunks again, and keeps archive files, which are single sealed objects beside the chunks.
//
// A session also takes over what killed sessions of its cluster left, and keeps small notes for the next one in the local
// cache, where it believes only what it can verify.
//
// It never knows what the bytes mean: a snapshot's manifest and a WAL file's header are opaque to it. Package
// snapshot, walarchive and restore use it through interfaces of their own; cmd joins them.
//
// Many sessions may write at once, on any hosts, and a prune may run beside them: docs/protocol.md says how they keep out of each
// other's way without locks or clocks. Both sides of that protocol are here: Session, and Prune.
//
// One law holds throughout: a root is written last. Packs come before the index segment that names them, index
// segments before the outcome that commits them. A crash leaves garbage, never a dangling root.
package repo
