package format

// Expected is what the golden repository was made from: the generator wrote it
// from the plain inputs, before anything was cut, sealed or stored.
type Expected struct {
	Snapshots []ExpectedSnapshot
	WAL       map[string]ExpectedWAL // by the object's name
	Absent    []ID                   // chunks that only a fenced session has stored
	Abandoned []ID                   // chunks of a session that has no outcome
}

// ExpectedSnapshot is one snapshot. The manifest lacks the root and the totals
// of what was stored, which no input says.
type ExpectedSnapshot struct {
	Manifest Manifest
	Depth    int // of the listing, at least
	Entries  []ExpectedEntry
}

// ExpectedEntry is one entry of a listing. Recipe lists the ways in which the
// content is stored, outermost first, such as "inline patch, chunks relation".
type ExpectedEntry struct {
	Entry
	SHA256 string // of the content; of a link, its target, which Entry lacks
	Recipe string
}

// ExpectedWAL is one WAL file.
type ExpectedWAL struct {
	Header WALHeader
	SHA256 string
	Chunks int
}
