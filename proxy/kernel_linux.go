//go:build !386 && !s390x

package proxy

import (
	"net"
	"syscall"
	"unsafe"
)

// What the kernel knows of a TCP connection and package net does not tell.

// unacknowledged returns how many bytes that were written to c its peer has not
// acknowledged, as SIOCOUTQ tells (tcp(7)).
func unacknowledged(c net.Conn) int {
	var n int32
	control(c, func(fd uintptr) {
		syscall.Syscall(syscall.SYS_IOCTL, fd, syscall.TIOCOUTQ, uintptr(unsafe.Pointer(&n)))
	})
	return int(n)
}

// hungUp reports whether the peer of c has closed its end, as TCP_INFO tells
// (tcp(7)), also if bytes that came before that were not read.
func hungUp(c net.Conn) bool {
	const established = 1 // TCP_ESTABLISHED; whoever was here has been that
	state, size := uint8(established), uint32(1)
	control(c, func(fd uintptr) {
		syscall.Syscall6(syscall.SYS_GETSOCKOPT, fd, syscall.IPPROTO_TCP, syscall.TCP_INFO,
			uintptr(unsafe.Pointer(&state)), uintptr(unsafe.Pointer(&size)), 0)
	})
	return state != established
}

// control calls f with the file descriptor of c, if it is a TCP connection.
func control(c net.Conn, f func(fd uintptr)) {
	tcp, ok := c.(*net.TCPConn)
	if !ok {
		return
	}
	if raw, err := tcp.SyscallConn(); err == nil {
		raw.Control(f)
	}
}
