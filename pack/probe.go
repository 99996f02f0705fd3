package pack

// incompressible says whether compressing plain is not worth trying.
func incompressible(plain []byte) bool { return false }
