package walahead

import "time"

const spoolKept = time.Hour
