// Package pgsource streams a base backup out of a running server: it starts and stops the backup on one connection, lists what
// is to be stored, opens the files, checks their pages, and reads finished WAL segments from pg_wal.
//
// It knows nothing of chunks, keys or repositories, and never prints. In a data directory it writes one file, pgtrove.last. What it
// lists are sources for snapshot.Take. cmd uses it for `pgtrove backup`.
//
// The order of a backup:
//
//	Connect -> Start -> Files -> read them, pg_control last -> Stop -> WAL from start to stop -> Close
//
// Start and Stop happen on the connection that Connect opened. When it ends, for whatever reason, the server ends the backup by
// itself (do_pg_abort_backup), so nothing is left running however the program dies.
//
// After Start, Vouch says whether anything may be skipped that the last snapshot holds already, and Changes which blocks may not.
// After the commit, SetLastSnapshot notes the new snapshot. A backup that could not be committed may be followed by another on the
// same Cluster; VouchNext then vouches for what the first one read.
//
// On a standby: Start begins at the last restart point, which may lie far back, and asks for a new one, which only comes
// about when a newer checkpoint record was replayed. The stop position is the standby's minimum recovery point. Its segment
// is finished when the primary finishes it; only the primary can be made to (pg_switch_wal).
package pgsource
