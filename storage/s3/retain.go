package s3

import "time"

// Retain sets for how long nobody may delete what is put from now on (governance mode), in the place of Options.ObjectLock; 0: no retention but what
// the bucket sets. It is for who learns it from an object of the storage, before others use the Store.
func (s *Store) Retain(d time.Duration) {
	s.put.lock = d
	if d > 0 && s.put.checksum == checksumNone {
		s.put.checksum = checksumMD5 // S3 takes no object with a retention without one
	}
}
