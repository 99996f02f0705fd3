package pg

import (
	"strconv"
	"strings"
)

// OIDs of the two tablespaces inside the data directory (pg_tablespace.dat).
const (
	DefaultTablespace uint32 = 1663 // base
	GlobalTablespace  uint32 = 1664 // global
)

// Fork is one of the files of a relation (ForkNumber).
type Fork uint8

// The forks, by PostgreSQL's numbers.
const (
	ForkMain Fork = iota
	ForkFSM       // free space map
	ForkVM        // visibility map
	ForkInit      // the empty state of an unlogged relation
)

// String is the suffix in file names, "main" for the main fork (forkNames).
func (f Fork) String() string {
	switch f {
	case ForkFSM:
		return "fsm"
	case ForkVM:
		return "vm"
	case ForkInit:
		return "init"
	}
	return "main"
}

// RelFile says which part of which relation a file holds.
type RelFile struct {
	Spc         uint32 // OID of the tablespace
	DB          uint32 // OID of the database, 0 in the global tablespace
	Relfilenode uint32 // not 0
	Fork        Fork
	Segment     uint32 // counts from 0: block 0 of this file is block Segment * RelSegSize of the relation's fork
	Temp        bool   // of a temporary relation
}

// ParseRelPath tells from a path relative to the data directory, with slashes, whether it is a relation's file by its name:
// "base/5/16384_fsm.2", "global/1262", "pg_tblspc/16400/PG_15_202209061/5/16390_init", "base/5/t3_16391".
func ParseRelPath(path string) (RelFile, bool) {
	var r RelFile
	top, rest, _ := strings.Cut(path, "/")
	ok := true
	switch top {
	case "global":
		r.Spc = GlobalTablespace
		return parseRelName(r, rest)
	case "base":
		r.Spc = DefaultTablespace
	case "pg_tblspc":
		var spc, version string
		spc, rest, _ = strings.Cut(rest, "/")
		version, rest, _ = strings.Cut(rest, "/")
		// "PG_", major version, catalog version (TABLESPACE_VERSION_DIRECTORY)
		if r.Spc, ok = parseOID(spc); !ok || !strings.HasPrefix(version, "PG_") {
			return RelFile{}, false
		}
	default:
		return RelFile{}, false
	}
	db, name, _ := strings.Cut(rest, "/")
	if r.DB, ok = parseOID(db); !ok {
		return RelFile{}, false
	}
	return parseRelName(r, name)
}

// parseRelName completes r from a file's name, as parse_filename_for_nontemp_relation and looks_like_temp_rel_name do:
// [t<backend>_]<relfilenode>[_<fork>][.<segment>]
func parseRelName(r RelFile, name string) (RelFile, bool) {
	if temp, isTemp := strings.CutPrefix(name, "t"); isTemp {
		backend, node, ok := strings.Cut(temp, "_")
		if !ok || !isNumber(backend) || r.DB == 0 {
			return RelFile{}, false
		}
		r.Temp, name = true, node
	}
	name, segment, hasSegment := strings.Cut(name, ".")
	if hasSegment {
		n, ok := parseOID(segment) // never ".0": the first file has no number
		if !ok {
			return RelFile{}, false
		}
		r.Segment = n
	}
	node, fork, hasFork := strings.Cut(name, "_")
	if hasFork {
		switch fork {
		case "fsm":
			r.Fork = ForkFSM
		case "vm":
			r.Fork = ForkVM
		case "init":
			r.Fork = ForkInit
		default:
			return RelFile{}, false
		}
	}
	var ok bool
	if r.Relfilenode, ok = parseOID(node); !ok {
		return RelFile{}, false
	}
	return r, true
}

func isNumber(s string) bool {
	return s != "" && strings.Trim(s, "0123456789") == ""
}

// parseOID reads a decimal number from 1 to 2^32-1 without leading zeros.
func parseOID(s string) (uint32, bool) {
	if !isNumber(s) || s[0] == '0' {
		return 0, false
	}
	v, err := strconv.ParseUint(s, 10, 32)
	return uint32(v), err == nil
}
