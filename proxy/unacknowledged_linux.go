package proxy

import (
	"net"
	"syscall"
	"unsafe"
)

// unacknowledged returns how many bytes that were written to c its peer has not
// acknowledged, as SIOCOUTQ tells (tcp(7)).
func unacknowledged(c net.Conn) int {
	tcp, ok := c.(*net.TCPConn)
	if !ok {
		return 0
	}
	raw, err := tcp.SyscallConn()
	if err != nil {
		return 0
	}
	var n int32
	raw.Control(func(fd uintptr) {
		syscall.Syscall(syscall.SYS_IOCTL, fd, syscall.TIOCOUTQ, uintptr(unsafe.Pointer(&n)))
	})
	return int(n)
}
