// Package snapshot is the record of one cluster at one time: its manifest, the sorted listing of everything in it
// (the tree), and for each file the recipe that rebuilds it from chunks. It also takes one: files in, recipes and
// listing out.
//
// A snapshot is complete in itself. It names no other snapshot, and nothing about it changes when another is taken
// or forgotten.
//
// The package knows PostgreSQL's vocabulary but talks to no server, and knows chunks but no repository: the Writer
// and the Fetcher that it declares are the whole of what it needs from one. pgsource feeds it, restore reads it,
// cmd joins it to package repo.
package snapshot
